"""Predictions in files: equal to what the model gave, in order, whole after a crash, and the same from two
processes.
"""

import csv
import os
import random
import runpy
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from pyarrow import parquet
from small import merged
from torch.utils.data import DataLoader

from ants_lightning import ANTS, NegativeMemory, PredictionWriter, demo
from ants_lightning.common.run_folder import RunFolder
from ants_lightning.data import FolderDataModule
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run import prediction_files, predictions
from ants_lightning.run.prediction_files import AFTER, BEFORE, FORMATS, merge
from ants_lightning.run.predictions import rows_of

SCORES = ["mcm", "neglabel", "ens", "vsnl", "ants"]
KINDS = ["csv", "parquet"]


def predict(data, folder, *callbacks, loaders=None, **settings):
    model = ANTS(demo.CLIP, **merged({"threshold": 0.5, **settings}, demo.SETTINGS["model"]))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    return trainer.predict(model, datamodule=data, dataloaders=loaders)


def visible(folder):
    return sorted(
        path.name for path in Path(folder).iterdir() if not path.name.startswith(".ants_lightning.")
    )


def read(path):
    """Rows of a file of either kind, all as the types that Parquet has."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    types = {
        "int64": int,
        "float64": float,
        "bool": {"True": True, "False": False}.__getitem__,
        "string": str,
    }
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [
            {
                name: types[(BEFORE | AFTER).get(name, "float64")](text) if text else None
                for name, text in row.items()
            }
            for row in csv.DictReader(file)
        ]


def wanted_rows(streams, names):
    """Rows from the outputs of `trainer.predict`, one number at a time."""
    for name, stream in zip(names, streams, strict=True):
        for batch in stream:
            for i in range(len(batch["index"])):
                yield {
                    "stream": name,
                    "index": int(batch["index"][i]),
                    "path": None,
                    "label": int(batch["label"][i]),
                    "prediction": int(batch["prediction"][i]),
                    "class_name": batch["class_name"][i],
                    **{score: batch["scores"][score][i].item() for score in SCORES},
                    "lambda": batch["lambda"],
                    "threshold": batch["threshold"],
                    "is_ood": bool(batch["is_ood"][i]),
                    "lost": None,
                }


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_what_the_model_gave_to_the_last_digit(small_demo, tmp_path, kind):
    settings = merged({"schedule": {"score_after_refresh": kind == "csv"}})
    memory = NegativeMemory(PerfectCaptions(small_demo), **settings)
    writer = PredictionWriter(f"some/where.{kind}")
    streams = predict(small_demo, tmp_path, memory, writer, threshold="auto")
    rows = read(tmp_path / "some" / f"where.{kind}")
    assert rows == list(wanted_rows(streams, small_demo.ood_sets)) and len(rows) == 3 * 128
    assert list(rows[0]) == [*BEFORE, *SCORES, *AFTER]
    assert all(row["is_ood"] == (row["ants"] >= row["threshold"]) for row in rows)
    assert len({row["lambda"] for row in rows}) > 3 < len({row["threshold"] for row in rows})
    assert visible(tmp_path / "some") == [f"where.{kind}"]


def odd_folder(folder, n=11):
    """Images with names that a CSV has to quote, and one that cannot be read."""
    images = demo.DrawnImages(ID_CLASSES, n, 3)
    folder.mkdir()
    names = [
        '1,"x".png',
        "2\nline.png",
        "3\r\nreturn.png",
        os.fsdecode(b"4\xff.png"),
        "5 ;=1+1.png",
        "6'.png",
    ]
    names += [f"{i:02}.png" for i in range(n - len(names))]
    for i, name in enumerate(names):
        images[i][0].save(folder / name, format="png")
    (folder / "05torn.png").write_bytes(b"")
    return sorted(str(folder / name) for name in [*names, "05torn.png"])


@pytest.mark.parametrize("kind", KINDS)
def test_odd_paths_come_back_and_lost_images_have_a_row_with_the_reason(tmp_path, kind):
    paths = odd_folder(tmp_path / "pictures")
    predict(
        FolderDataModule(str(tmp_path / "pictures"), ID_CLASSES, 4, 0),
        tmp_path,
        PredictionWriter(f"p.{kind}"),
        threshold=None,
    )
    rows = read(tmp_path / f"p.{kind}")
    found = [row["path"] for row in rows]
    assert [row["index"] for row in rows] == list(range(12)) and {row["stream"] for row in rows} == {
        "pictures"
    }
    assert found == [path if kind == "csv" else path.replace("\udcff", "\\udcff") for path in paths]
    (lost,) = [row for row in rows if row["lost"]]
    assert lost["path"].endswith("05torn.png") and "cannot identify" in lost["lost"]
    assert {name for name, value in lost.items() if value is not None} == {"stream", "index", "path", "lost"}
    for row in rows:
        assert row["label"] is row["threshold"] is row["is_ood"] is None and (
            row is lost or row["ants"] is not None
        )


def test_pandas_reads_both_alike(tmp_path, small_demo):
    for kind in KINDS:
        predict(small_demo, tmp_path, PredictionWriter(f"p.{kind}"))
    one, two = (
        pd.read_csv(tmp_path / "p.csv", float_precision="round_trip"),
        pd.read_parquet(tmp_path / "p.parquet"),
    )
    for name in ("stream", "index", "label", "prediction", "class_name", *SCORES, "threshold", "is_ood"):
        assert (one[name] == two[name]).all()
    assert one["is_ood"].dtype == two["is_ood"].dtype == bool


class Failing(L.Callback):
    """Ends the run in the fourth batch, and keeps what was in the part at each."""

    def __init__(self):
        self.written = []

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        parts = list(Path(trainer.default_root_dir).glob("p.rank0.csv"))
        self.written.append(len(read(parts[0])) if parts else 0)
        if batch_idx == 3:
            raise KeyError("power")


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_exception_the_part_holds_what_was_computed(small_demo, tmp_path, kind):
    predict(small_demo, tmp_path, PredictionWriter(f"p.{kind}"), num_groups=3)
    earlier, failing = (tmp_path / f"p.{kind}").read_bytes(), Failing()
    with pytest.raises(KeyError, match="power"):
        predict(small_demo, tmp_path, failing, PredictionWriter(f"p.{kind}"))
    rows = read(tmp_path / f"p.rank0.{kind}")
    assert [row["index"] for row in rows] == list(range(48)) and (
        tmp_path / f"p.{kind}"
    ).read_bytes() == earlier
    if kind == "csv":
        assert failing.written == [0, 16, 32, 48]
    predict(small_demo, tmp_path, PredictionWriter(f"p.{kind}"))
    assert len(read(tmp_path / f"p.{kind}")) == 384 and visible(tmp_path) == [f"p.{kind}"]
    assert (tmp_path / f"p.{kind}").read_bytes() != earlier


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_another_order_is_sorted_in_pieces(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(prediction_files, "PIECE", 7)
    monkeypatch.setattr(prediction_files, "ROWS", 5)
    order = random.Random(0).sample(range(50), 50)
    first = [i for i in order if i < 20]
    images = torch.rand(50, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = [{"image": images[i], "index": i} for i in order]
    loaders = [
        DataLoader([row for row in rows if row["index"] in first], batch_size=4),
        DataLoader(rows, batch_size=4),
        DataLoader(images, batch_size=8),
    ]
    streams = predict(None, tmp_path, PredictionWriter(f"p.{kind}"), loaders=loaders, class_names=ID_CLASSES)
    found = [(row["stream"], row["index"], row["ants"]) for row in read(tmp_path / f"p.{kind}")]
    wanted = []
    for name, stream in zip(("predict", "predict_1", "predict_2"), streams, strict=True):
        pairs = [
            zip(batch["index"].tolist(), batch["scores"]["ants"].tolist(), strict=True) for batch in stream
        ]
        wanted += [(name, *pair) for pair in sorted(pair for batch in pairs for pair in batch)]
    assert found == wanted and [index for _, index, _ in found[-50:]] == list(range(50))
    assert visible(tmp_path) == [f"p.{kind}"]


def some_rows(n, streams=("b", "a"), seed=0):
    rng, none = random.Random(seed), dict.fromkeys([*BEFORE, "ants", *AFTER])
    rows = [
        {**none, "stream": rng.choice(streams), "index": i, "path": f"{i}\n,é.png", "ants": rng.random()}
        for i in range(n)
    ]
    return [row for stream in streams for row in rows if row["stream"] == stream]


def write(path, rows):
    file = FORMATS[path.suffix](path, ["ants"])
    for k in range(0, len(rows), 3):
        file.write(rows[k : k + 3])
    file.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_parts_are_merged_in_order_of_the_streams(tmp_path, kind, world):
    rows = some_rows(50)
    parts = [
        write(tmp_path / f"p.rank{r}.{kind}", [row for row in rows if row["index"] % world == r])
        for r in range(world)
    ]
    merge(parts, tmp_path / f"p.{kind}", ["b", "a"])
    assert read(tmp_path / f"p.{kind}") == rows and len(os.listdir(tmp_path)) == world + 1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_a_few_rows_while_parts_are_merged(tmp_path, kind):
    rows = some_rows(20_000, streams=("a",))
    parts = [write(tmp_path / f"p.rank{r}.{kind}", rows[r::2]) for r in (0, 1)]
    tracemalloc.start()
    merge(parts, tmp_path / f"p.{kind}", ["a"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{kind}: merging 20,000 rows took {peak / 1e6:.1f} MB")
    assert len(read(tmp_path / f"p.{kind}")) == 20_000
    assert peak < (4e6 if kind == "csv" else 14e6)  # a row is about 1 kB; Parquet keeps a group of 10,000


def test_rows_of_a_batch_that_was_lost_whole():
    none = torch.empty(0)
    outputs = {
        "index": none.long(),
        "label": none.long(),
        "prediction": none.long(),
        "is_ood": none.bool(),
        "path": [],
        "class_name": [],
        "scores": {"mcm": none},
        "lambda": 0.5,
        "threshold": 0.5,
        "lost": [
            {"index": 5, "label": 1, "path": "b", "why": "torn"},
            {"index": 3, "label": 0, "path": "", "why": "no image"},
        ],
    }
    assert [(row["index"], row["path"], row["lost"], row["mcm"]) for row in rows_of("s", outputs)] == [
        (3, "", "no image", None),
        (5, "b", "torn", None),
    ]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1"]
INERT = ["'quoted'", "it's", "a=1", " =1", "6'.png", "'", "犬\x1b[31m", 'a,"b"\r\nc']


def test_texts_that_a_spreadsheet_would_run_are_made_inert_and_come_back(tmp_path):
    rows = some_rows(len(FORMULAS + INERT), streams=("a",))
    for row, text in zip(rows, FORMULAS + INERT, strict=True):
        row.update(dict.fromkeys(("stream", "path", "class_name", "lost"), text), ants=-0.5)
    path = write(tmp_path / "p.csv", rows)
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    for name in ("stream", "path", "class_name", "lost"):
        assert [row[name] for row in cells] == [f"'{text}" for text in FORMULAS] + INERT
    assert {row["ants"] for row in cells} == {"-0.5"}  # numbers stay numbers
    found = list(FORMATS[".csv"].read(path))
    assert [row["path"] for row in found] == [row["stream"] for row in found] == FORMULAS + INERT


@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_of_streams_and_classes_are_predicted(tmp_path, kind):
    """In another order, too, so that the file is read and sorted."""
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    class Data(L.LightningDataModule):
        def predict_dataloader(self):
            rows = [{"image": images[i], "index": i} for i in (3, 1, 5, 0, 2, 4)]
            return {name: DataLoader(rows, batch_size=2) for name in ("=2+2", "a\nb", "half \ud83d", "-")}

    predict(Data(), tmp_path, PredictionWriter(f"p.{kind}"), class_names=["=star", "+ring", *ID_CLASSES[2:]])
    rows = list(FORMATS[f".{kind}"].read(tmp_path / f"p.{kind}"))
    assert [row["stream"] for row in rows] == [
        name for name in ("=2+2", "a\nb", "half \\ud83d", "-") for _ in range(6)
    ]
    assert [int(row["index"]) for row in rows] == 4 * list(range(6))


def test_the_reason_for_a_loss_is_one_line():
    outputs = {
        "index": torch.empty(0).long(),
        "label": None,
        "prediction": torch.empty(0).long(),
        "is_ood": None,
        "path": None,
        "class_name": [],
        "scores": {"mcm": torch.empty(0)},
        "lambda": 0.5,
        "threshold": None,
        "lost": [{"index": 5, "path": "a\nb", "why": "broken\n\x1b[31m data"}],
    }
    assert [(row["path"], row["lost"]) for row in rows_of("s", outputs)] == [("a\nb", "broken [31m data")]


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
