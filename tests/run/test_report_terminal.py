"""The table and the progress bar on any terminal."""

import io
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import rich
from report_parts import make_model
from rich.console import Console

from ants_lightning import Report, demo
from ants_lightning.data import OODDataModule
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.run.progress import StreamProgressBar
from ants_lightning.run.terminal import Lenient


def test_text_that_an_encoding_has_no_place_for_is_written_all_the_same():
    raw = io.BytesIO()
    stream = Lenient(io.TextIOWrapper(raw, encoding="latin-1", write_through=True))
    Console(file=stream, force_terminal=False, width=40).print("λ 0.5 ± 0.1 é \ud83d")
    assert raw.getvalue() == b"? 0.5 \xb1 0.1 \xe9 ?\n" and not stream.isatty()


def named(*names):
    """Streams of these names."""
    id_set, ood = demo.DrawnImages(ID_CLASSES, 8, 5), demo.DrawnImages(NEAR_CLASSES, 8, 6)
    return OODDataModule(
        id_set, near=dict.fromkeys(names, ood), class_names=list(ID_CLASSES), batch_size=8, num_workers=0
    )


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import lightning as L
from ants_lightning import NegativeMemory
from ants_lightning.run.progress import StreamProgressBar
from ants_lightning.run.report import Report
from report_parts import make_model
from test_report_terminal import named

memory = NegativeMemory(schedule={"every": 1, "min_images": 1})
callbacks = [memory, StreamProgressBar({"force_terminal": True}), Report()]
trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=sys.argv[2], callbacks=callbacks)
trainer.test(make_model(), named("λ 犬"), verbose=False)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_script_ends_well_whatever_the_encoding_of_its_output(tmp_path, encoding):
    env = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    words = [sys.executable, "-c", SCRIPT, str(here), str(tmp_path)]
    env["PYTHONPATH"] = str(here.parent)
    done = subprocess.run(words, env=env, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    shown = done.stdout.decode(encoding)
    assert "neglabel" in shown and ("λ 犬" if encoding == "utf-8" else "? ?") in shown


@pytest.mark.parametrize("name", ["near [/old]", "set[bold]A", "a:dog:b", "end\\", "{name}", "λ 犬", "%s"])
def test_the_progress_bar_shows_names_as_they_are_where_rich_writes(tmp_path, monkeypatch, name):
    out = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=out, force_terminal=True, width=120))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[StreamProgressBar()],
    )
    trainer.test(make_model(), named(name), verbose=False)
    assert name in out.getvalue()


def test_control_characters_of_a_name_do_nothing(tmp_path, monkeypatch, capsys):
    out = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=out, force_terminal=True, width=120))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[StreamProgressBar(), Report()],
    )
    trainer.test(make_model(), named("red\x1b[2J\nbird"), verbose=False)
    assert "red [2J bird" in out.getvalue() and "\x1b[2J" not in out.getvalue() + capsys.readouterr().out
