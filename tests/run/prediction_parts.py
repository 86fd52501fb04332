"""Predictions of the demo, and readers of their files."""

import csv
import os
from pathlib import Path

import lightning as L
from pyarrow import parquet
from small import merged

from ants_lightning import ANTS, demo
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run.prediction_files import AFTER, BEFORE

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
