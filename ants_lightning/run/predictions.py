"""`PredictionWriter`: a row for every image of `trainer.predict`, to CSV or Parquet, as the stream goes."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ants_lightning.common.run_folder import RunFolder, run_folder
from ants_lightning.common.settings import plain_path
from ants_lightning.common.text import one_line
from ants_lightning.data.batches import stream_loaders
from ants_lightning.distributed import gather_json
from ants_lightning.run.prediction_files import (
    AFTER,
    BEFORE,
    FORMATS,
    CSVFile,
    ParquetFile,
    Row,
    beside,
    escaped,
    merge,
    sort,
)

logger = logging.getLogger(__name__)


def _path(path: str | None) -> str | None:
    """A path as it is, if its bytes are known."""
    try:
        return path and path.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return escaped(path)


def rows_of(stream: str, outputs: Mapping[str, Any]) -> list[Row]:
    """The rows of a batch by place in the stream.

    Lost images have a row, too, with the reason and no scores.
    """
    columns = {
        name: outputs[name] for name in (*BEFORE, "is_ood") if name != "stream" and outputs[name] is not None
    }
    columns = {
        name: column.tolist() if isinstance(column, Tensor) else column for name, column in columns.items()
    }
    for name, clean in (("path", _path), ("class_name", escaped)):
        columns |= {name: [clean(text) for text in columns[name]]} if name in columns else {}
    stream, names = escaped(stream) or "", list(outputs["scores"])
    scores = torch.stack([score.double() for score in outputs["scores"].values()], 1).tolist()
    every = {"stream": stream, "lambda": outputs["lambda"], "threshold": outputs["threshold"]}
    none = dict.fromkeys([*BEFORE, *names, *AFTER])
    rows = [
        {
            **none,
            **every,
            **{name: column[i] for name, column in columns.items()},
            **dict(zip(names, of_image, strict=True)),
        }
        for i, of_image in enumerate(scores)
    ]
    for x in outputs["lost"]:
        rows.append(
            {
                **none,
                "stream": stream,
                "index": x["index"],
                "path": _path(x["path"]),
                "lost": one_line(x["why"]),
            }
        )
    return sorted(rows, key=lambda row: row["index"])


class PredictionWriter(L.Callback):
    """Writes a row for every image that `trainer.predict` sees, lost ones too, in constant memory.

    Each rank writes `<stem>.rank<r><suffix>` as the stream goes; at the end the first merges them in order of
    (stream, index). After an exception these parts stay and hold what was computed. Belongs after
    `NegativeMemory` in the list of callbacks.

    The columns are `BEFORE`, the scores by name, and `AFTER`; `lambda` and `threshold` are those that the
    image was scored with.

    Args:
        path: `….csv` or `….parquet` (needs the extra `parquet`); relative to `trainer.default_root_dir`. One
            that an earlier run wrote is replaced when all is there; any other is a ValueError before the
            first batch, as is a folder in which another run is under way.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        self.path = Path(plain_path(path))
        if self.path.suffix not in FORMATS:
            raise ValueError(f"predictions go to a file named .csv or .parquet, got {path!r}")
        if self.path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"{path!r}: Parquet needs pyarrow: pip install 'ants-lightning[parquet]'")
        self._file: CSVFile | ParquetFile | None = None
        self._folder: RunFolder | None = None  # None: nothing is written

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Claim the folder, and remove parts that an earlier run left."""
        self._folder = None
        if stage != "predict" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._target = Path(trainer.default_root_dir) / self.path
        self._parts = [f"{self.path.stem}.rank{rank}{self.path.suffix}" for rank in range(trainer.world_size)]
        folder = run_folder(trainer, self._target.parent)
        folder.claim(self, self._target.name, *self._parts)
        self._folder = folder
        why = gather_json(self._make_room(folder) if trainer.is_global_zero else "")[0]
        mine = folder.path / self._parts[trainer.global_rank]
        if mine.exists():  # not on the first rank's disk
            why = why or f"{mine} is there, of an earlier run or somebody else: move it away"
        if whys := [one for one in gather_json(why) if one]:
            raise ValueError(whys[0])

    def _make_room(self, folder: RunFolder) -> str:
        """Remove the parts that an earlier run left; what keeps them from being written."""
        try:
            folder.remove(*self._parts)
            folder.begin(*self._parts)
        except OSError as error:
            return f"predictions cannot be written to {self._target}: {error}"
        return ""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the streams."""
        self._streams = list(stream_loaders(trainer))
        self._last, self._in_order = (0, -1), True

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of the batch."""
        rows = rows_of(self._streams[dataloader_idx], outputs) if outputs is not None else []
        if not rows or self._folder is None:
            return
        if self._file is None:
            scores = list(outputs["scores"])
            if taken := set(scores) & {*BEFORE, *AFTER}:
                raise ValueError(f"a score has the name of another column: {', '.join(taken)}")
            self._file = FORMATS[self._target.suffix](
                self._folder.path / self._parts[trainer.global_rank], scores
            )
        self._file.write(rows)
        self._in_order &= self._last <= (dataloader_idx, rows[0]["index"])
        self._last = (dataloader_idx, rows[-1]["index"])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put this rank's rows in order; the first rank merges all."""
        if self._folder is None:
            return
        wrote = self._file is not None
        self._close()
        if wrote and not self._in_order:
            sort(self._folder.path / self._parts[trainer.global_rank], self._streams)
        parts = [
            self._folder.path / self._parts[rank]
            for rank, has_rows in enumerate(gather_json(wrote))
            if has_rows
        ]
        if not trainer.is_global_zero:
            return
        away = [part.name for part in parts if not part.is_file()]
        if away:  # another machine's folder
            logger.warning(
                "%s stay where they are: not in %s are %s",
                parts[0].name,
                self._target.parent,
                ", ".join(away),
            )
        elif len(parts) == 1:
            self._folder.put(parts[0], self._target.name)
        elif parts:
            with beside(self._target) as temporary:
                merge(parts, whole := Path(temporary) / self._target.name, self._streams)
                self._folder.put(whole, self._target.name)
            self._folder.remove(*self._parts)
        elif self._target.exists():
            logger.warning("no rows: %s is of an earlier run", self._target)
        self._folder.finish(*self._parts)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Keep what is written."""
        self._close()
        if self._folder is not None and trainer.world_size == 1:  # of several ranks others may still write
            with suppress(OSError):
                self._folder.finish(*self._parts)
        self.teardown(trainer, pl_module, "predict")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the folder."""
        if self._folder is not None:
            self._folder.release(self)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
