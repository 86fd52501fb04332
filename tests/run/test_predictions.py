"""Predictions in files are what the model gave, in order."""

import random
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from prediction_parts import KINDS, odd_folder, predict, read, visible
from small import merged
from torch.utils.data import DataLoader

from ants_lightning import NegativeMemory, PredictionWriter
from ants_lightning.data import FolderDataModule
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run import prediction_files
from ants_lightning.run.prediction_files import AFTER, BEFORE

SCORES = ["mcm", "neglabel", "ens", "vsnl", "ants"]


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
    one = pd.read_csv(tmp_path / "p.csv", float_precision="round_trip")
    two = pd.read_parquet(tmp_path / "p.parquet")
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
