"""Where predictions are written, and what is refused; two processes."""

import os
import runpy
import signal
import subprocess
import sys

import lightning as L
import pytest
from prediction_parts import odd_folder, predict, read, visible

from ants_lightning import ANTS, PredictionWriter, demo
from ants_lightning.common.run_folder import RunFolder
from ants_lightning.run import predictions


class Started(L.Callback):
    batches = 0

    def on_predict_batch_start(self, *args, **more):
        self.batches += 1


@pytest.mark.parametrize("name", ["p.csv", "p.rank0.csv"])
def test_files_of_others_are_refused_before_the_run_and_stay(small_demo, tmp_path, name):
    (tmp_path / name).write_text("precious")
    started = Started()
    with pytest.raises(ValueError, match=rf"holds {name}, which no run wrote"):
        predict(small_demo, tmp_path, started, PredictionWriter("p.csv"))
    assert (
        started.batches == 0 and (tmp_path / name).read_text() == "precious" and visible(tmp_path) == [name]
    )


def test_predictions_that_were_edited_are_somebodys(small_demo, tmp_path):
    predict(small_demo, tmp_path, PredictionWriter("p.csv"))
    with (tmp_path / "p.csv").open("a") as file:
        file.write("my note")
    with pytest.raises(ValueError, match=r"p\.csv, which no run wrote, or which was edited"):
        predict(small_demo, tmp_path, PredictionWriter("p.csv"))


def test_two_runs_do_not_share_a_folder(small_demo, tmp_path):
    """The second begins while the first is at work; the first is whole. Also where the file is outside
    both run folders.
    """
    refused = []

    class Other(L.Callback):
        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 3 and dataloader_idx == 0:
                for folder, path in (
                    (tmp_path, "other.csv"),
                    (tmp_path / "second", str(tmp_path / "out" / "other.csv")),
                ):
                    with pytest.raises(
                        ValueError, match=f"another run \\(process {os.getpid()} on .* is under way in "
                    ) as error:
                        predict(small_demo, folder, PredictionWriter(path))
                    refused.append(str(error.value))

    predict(
        small_demo,
        tmp_path,
        PredictionWriter(str(tmp_path / "out" / "p.csv")),
        PredictionWriter("p.csv"),
        Other(),
    )
    assert len(refused) == 2 and f"{tmp_path}:" in refused[0] and f"{tmp_path / 'out'}:" in refused[1]
    assert len(read(tmp_path / "p.csv")) == len(read(tmp_path / "out" / "p.csv")) == 384
    assert visible(tmp_path) == ["out", "p.csv"] and visible(tmp_path / "out") == ["p.csv"]
    predict(small_demo, tmp_path, PredictionWriter("other.csv"))


def test_two_writers_of_one_file_and_a_file_in_the_place_of_a_folder(small_demo, tmp_path):
    with pytest.raises(ValueError, match=r"p\.rank0\.csv in .* written by two at once"):
        predict(small_demo, tmp_path, PredictionWriter("p.csv"), PredictionWriter("./p.csv"))
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"the folder of the run, .*taken, cannot be written"):
        predict(small_demo, tmp_path, PredictionWriter("taken/p.csv"))
    with pytest.raises(OSError, match=r"the folder of the run, .*taken, cannot be written: .*File exists"):
        predict(small_demo, tmp_path / "taken", PredictionWriter("p.csv"))


def test_fast_dev_run_writes_no_predictions(small_demo, tmp_path):
    trainer = L.Trainer(
        accelerator="cpu",
        fast_dev_run=True,
        enable_progress_bar=False,
        default_root_dir=tmp_path / "run",
        callbacks=[PredictionWriter()],
    )
    trainer.predict(ANTS(demo.CLIP, **demo.SETTINGS["model"]), small_demo)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_written_is_refused_before_the_run(monkeypatch, small_demo, tmp_path):
    with pytest.raises(ValueError, match=r"\.csv or \.parquet, got 'p.xlsx'"):
        PredictionWriter("p.xlsx")
    find = predictions.importlib.util.find_spec
    monkeypatch.setattr(
        predictions.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    with pytest.raises(ValueError, match=r"ants-lightning\[parquet\]"):
        PredictionWriter("p.parquet")
    PredictionWriter("p.csv")


SCRIPT = """
import sys

import lightning as L
import torch

from ants_lightning import ANTS, NegativeMemory, PredictionWriter, demo
from ants_lightning.data import FolderDataModule
from ants_lightning.demo.shapes import ID_CLASSES


def main(folder, world):
    memory = NegativeMemory(schedule={"every": 1})
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[memory, PredictionWriter(), PredictionWriter(path="p.parquet")],
    )
    model = ANTS(demo.CLIP, negatives={"nouns": demo.WORDS["nouns"]}, threshold="auto")
    trainer.predict(model, FolderDataModule(folder + "/pictures", list(ID_CLASSES), 4 // world, 0))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], 2)
"""


def run_job(folder):
    """The exit code and the output of the script in two processes."""
    job = subprocess.Popen(
        [sys.executable, str(folder / "run.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output = job.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    return job.returncode, output


def test_two_processes_are_refused_both(tmp_path):
    odd_folder(tmp_path / "pictures", n=7)
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "predictions.csv").write_text("precious")
    code, output = run_job(tmp_path)
    assert (
        code != 0 and output.count(f"ValueError: {tmp_path} holds predictions.csv, which no run wrote") == 2
    ), output[-3000:]
    assert (tmp_path / "predictions.csv").read_text() == "precious" and not (
        tmp_path / "predictions.rank0.csv"
    ).exists()


def test_two_processes_write_the_rows_of_one(tmp_path):
    odd_folder(tmp_path / "pictures", n=20)
    (tmp_path / "run.py").write_text(SCRIPT)
    killed = RunFolder(tmp_path)
    killed.claim("a run")
    killed.begin("predictions.rank1.csv")
    (tmp_path / "predictions.rank1.csv").write_text("of a run that was killed")
    killed.release("a run")
    code, output = run_job(tmp_path)
    assert code == 0, output[-3000:]
    two = read(tmp_path / "predictions.csv")
    for row, same in zip(read(tmp_path / "p.parquet"), two, strict=True):
        assert {**row, "path": None} == {**same, "path": None}
    assert not list(tmp_path.glob("*.rank*"))
    runpy.run_path(str(tmp_path / "run.py"))["main"](str(tmp_path), 1)
    one = read(tmp_path / "predictions.csv")
    assert len(one) == 21 and len({row["threshold"] for row in one}) > 2
    for row, same in zip(one, two, strict=True):
        assert same == pytest.approx(row, abs=1e-6)
