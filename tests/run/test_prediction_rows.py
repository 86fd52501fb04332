"""Rows of predictions: merged parts, lost batches, and odd texts."""

import csv
import os
import random
import tracemalloc

import lightning as L
import pytest
import torch
from prediction_parts import KINDS, predict, read
from torch.utils.data import DataLoader

from ants_lightning import PredictionWriter
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run.prediction_files import AFTER, BEFORE, FORMATS, merge
from ants_lightning.run.predictions import rows_of


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
