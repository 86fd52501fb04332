"""Commands."""

from pathlib import Path

import pytest
import yaml

from ants_lightning.cli import main

ROOT = Path(__file__).parents[1]


SMALL = [
    "--data.n_id",
    "40",
    "--data.n_ood",
    "40",
    "--trainer.enable_progress_bar",
    "false",
    "--memory.schedule.min_images",
    "20",
]


def printed(words, monkeypatch, capsys, command="test"):
    """What `--print_config` shows."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main([command, *words, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)
