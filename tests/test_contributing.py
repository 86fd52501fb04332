"""What CONTRIBUTING.md shows works as it stands there: a score, an MLLM, a data set."""

import csv
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ants_lightning import demo
from ants_lightning.cli import main
from ants_lightning.demo import ID_CLASSES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The files that CONTRIBUTING.md shows, in a folder from which they can be imported."""
    for name, code in re.findall(r"`(my_\w+)\.py`:\n\n```python\n(.*?)```", TEXT, re.S):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_scores", "my_mllm", "my_sets"):
        sys.modules.pop(name, None)


def run(folder, config, *words):
    """Run the demo with a config on top; the results by stream."""
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(folder / "run")]
    main(["test", "--config", "demo", "--config", str(folder / "mine.yaml"), *quiet, *words])
    return yaml.safe_load((folder / "run/results.json").read_text())["streams"]


SMALL = ["--data.n_id", "40", "--data.n_ood", "40"]


def test_a_score_is_a_column(shown):
    streams = run(
        shown,
        {"model": {"baselines": [{"class_path": "my_scores.Margin"}]}, "memory": {"mllm": None}},
        *SMALL,
    )
    assert all(0.5 < stream["scores"]["margin"]["auroc"] < 1 for stream in streams.values())
    seen = importlib.import_module("ants_lightning.baselines").Seen
    score = importlib.import_module("my_scores").Margin()
    cosines = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.3, 0.1]])
    torch.testing.assert_close(
        score(seen(torch.zeros(2, 4), cosines, torch.zeros(2, 0))), torch.tensor([-0.3, 0.0])
    )


def test_an_mllm_answers(shown):
    mllm = {"class_path": "my_mllm.PipelineMLLM", "init_args": {"model": demo.LLAVA, "max_new_tokens": 8}}
    few = ["--memory.schedule.min_images", "16", "--memory.schedule.every", "1"]
    streams = run(shown, {"memory": {"mllm": mllm}}, *SMALL, *few)
    assert all(stream["health"]["answered"] == stream["health"]["asked"] > 0 for stream in streams.values())
    assert all(stream["n_ens"] > 0 for stream in streams.values())


def test_a_data_set_is_read(shown):
    pictures = demo.DrawnImages(ID_CLASSES[:2], 12, seed=3)
    for name in ("id", "street"):
        with open(shown / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "label"])
            for i in range(12):
                picture, label = pictures[i]
                picture.save(shown / f"{name}{i}.png")
                rows.writerow([f"{name}{i}.png", label if name == "id" else -1])
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.S)[1])
    config["data"]["init_args"]["class_names"] = ID_CLASSES[:2]  # this CLIP has not learnt of cats
    (shown / "plain.yaml").write_text(yaml.safe_dump({"model": {"model": demo.CLIP, "pretrained": None}}))
    words = ["--config", "plain.yaml", "--config", "data.yaml", "--trainer.logger", "false"]
    (shown / "data.yaml").write_text(yaml.safe_dump(config))
    main(["test", *words, "--trainer.default_root_dir", str(shown / "run")])
    stream = yaml.safe_load((shown / "run/results.json").read_text())["streams"]["street"]
    assert stream["group"] == "near" and stream["n_id"] == stream["n_ood"] == 12
