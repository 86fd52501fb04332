"""`PredictionWriter`: a row for every image of `trainer.predict`, to CSV or Parquet, as the stream goes."""

from __future__ import annotations

import csv
import heapq
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ants_lightning.data.batches import stream_loaders
from ants_lightning.gathering import gather_json

logger = logging.getLogger(__name__)

Row = dict[str, Any]
BEFORE = {"stream": "string", "index": "int64", "path": "string", "label": "int64", "prediction": "int64", "class_name": "string"}
AFTER = {"lambda": "float64", "threshold": "float64", "is_ood": "bool", "lost": "string"}  # and between these a float64 a score
ROWS = 10_000  # in a row group of Parquet
PIECE = 50_000  # rows in memory while a file is sorted


class CSVFile:
    """Rows to a CSV file, UTF-8 (a path that is none keeps its bytes), nothing for None."""

    def __init__(self, path: Path, scores: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._csv = csv.DictWriter(self._file, [*BEFORE, *scores, *AFTER])
        self._csv.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are there when this returns."""
        self._csv.writerows(rows)
        self._file.flush()

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> Iterator[Row]:
        """The rows of a file, as strings."""
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from csv.DictReader(file)


class ParquetFile:
    """Rows to a Parquet file, in groups of `ROWS`; it can be read once it is closed."""

    def __init__(self, path: Path, scores: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        types = BEFORE | dict.fromkeys(scores, "float64") | AFTER
        self._schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])
        self._from_rows, self._rows = pa.Table.from_pylist, list[Row]()
        self._file = ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._rows += [{**row, "path": _unicode(row["path"])} for row in rows]
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._file.write_table(self._from_rows(rows, self._schema))

    def close(self) -> None:
        """No more rows."""
        try:
            self._flush()
        finally:
            self._file.close()

    @staticmethod
    def read(path: Path) -> Iterator[Row]:
        """The rows of a file."""
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            for rows in file.iter_batches(1000):
                yield from rows.to_pylist()


FORMATS: dict[str, Any] = {".csv": CSVFile, ".parquet": ParquetFile}


def _unicode(path: str | None) -> str | None:
    """A path with bytes that are no UTF-8 written out in ASCII: Parquet has no place for them."""
    return path and path.encode("utf-8", "backslashreplace").decode()


def rows_of(stream: str, outputs: Mapping[str, Any]) -> list[Row]:
    """The rows of a batch, by place in the stream: of its images, and of those that were lost, with the reason and no scores."""
    columns = {name: outputs[name] for name in (*BEFORE, "is_ood") if name != "stream" and outputs[name] is not None}
    columns = {name: column.tolist() if isinstance(column, Tensor) else column for name, column in columns.items()}
    names = list(outputs["scores"])
    scores = torch.stack([score.double() for score in outputs["scores"].values()], 1).tolist()
    every = {"stream": stream, "lambda": outputs["lambda"], "threshold": outputs["threshold"]}
    none = dict.fromkeys([*BEFORE, *names, *AFTER])
    rows = [
        {**none, **every, **{name: column[i] for name, column in columns.items()}, **dict(zip(names, of_image, strict=True))}
        for i, of_image in enumerate(scores)
    ]
    rows += [{**none, "stream": stream, "index": x["index"], "path": x["path"], "lost": x["why"]} for x in outputs["lost"]]
    return sorted(rows, key=lambda row: row["index"])


def merge(parts: Sequence[Path], target: Path, streams: Sequence[str]) -> None:
    """Merge files of one format, each in order of (stream, index), into one, and remove them; a few rows are in memory at a time.

    Args:
        parts: the files, at least one.
        target: may be one of them; replaced only when all is written.
        streams: names in their order.
    """
    kind = FORMATS[target.suffix]
    new = target.with_name(f"{target.stem}.new{target.suffix}")
    sources = [kind.read(part) for part in parts]
    rows = heapq.merge(*sources, key=_key(streams))
    first = next(rows)
    with closing(kind(new, [name for name in first if name not in BEFORE | AFTER])) as file:
        file.write([first])
        for some in _batched(rows, 1000):
            file.write(some)
    for part in parts:
        part.unlink()
    os.replace(new, target)


def sort(path: Path, streams: Sequence[str]) -> None:
    """Bring the rows of a file in order of (stream, index): sorted pieces of `PIECE` rows, merged."""
    kind, pieces = FORMATS[path.suffix], list[Path]()
    for rows in _batched(kind.read(path), PIECE):
        pieces.append(path.with_name(f"{path.stem}.piece{len(pieces)}{path.suffix}"))
        with closing(kind(pieces[-1], [name for name in rows[0] if name not in BEFORE | AFTER])) as file:
            file.write(sorted(rows, key=_key(streams)))
    merge(pieces, path, streams)


def _batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    return iter(lambda: list(islice(rows, size)), [])


def _key(streams: Sequence[str]) -> Callable[[Row], tuple[int, int]]:
    place = {name: i for i, name in enumerate(streams)}
    return lambda row: (place[row["stream"]], int(row["index"]))


class PredictionWriter(L.Callback):
    """Writes a row for every image that `trainer.predict` sees, lost ones too; memory does not grow with the stream.

    Each rank writes `<stem>.rank<r><suffix>` as the stream goes; at the end the first merges them in order of (stream, index).
    After an exception these parts stay and hold what was computed. Belongs after `NegativeMemory` in the list of callbacks.

    The columns are `BEFORE`, the scores by name, and `AFTER`; `lambda` and `threshold` are those that the image was scored with.

    Args:
        path: `….csv` or `….parquet` (needs the extra `parquet`); relative to `trainer.default_root_dir`. Replaced if it exists.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        self.path = Path(path)
        if self.path.suffix not in FORMATS:
            raise ValueError(f"predictions go to a file named .csv or .parquet, got {path!r}")
        if self.path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"{path!r}: Parquet needs pyarrow: pip install 'ants-lightning[parquet]'")
        self._file: CSVFile | ParquetFile | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the folder, and remove what an earlier run wrote."""
        self._target = Path(trainer.default_root_dir) / self.path
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._streams = list(stream_loaders(trainer))
        self._last, self._in_order = (0, -1), True
        if trainer.is_global_zero:
            self._target.unlink(missing_ok=True)
        self._part(trainer.global_rank).unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        return self._target.with_name(f"{self._target.stem}.rank{rank}{self._target.suffix}")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write the rows of the batch."""
        rows = rows_of(self._streams[dataloader_idx], outputs) if outputs is not None else []
        if not rows:
            return
        if self._file is None:
            scores = list(outputs["scores"])
            if taken := set(scores) & {*BEFORE, *AFTER}:
                raise ValueError(f"a score has the name of another column: {', '.join(taken)}")
            self._file = FORMATS[self._target.suffix](self._part(trainer.global_rank), scores)
        self._file.write(rows)
        self._in_order &= self._last <= (dataloader_idx, rows[0]["index"])
        self._last = (dataloader_idx, rows[-1]["index"])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put this rank's rows in order; the first rank merges all."""
        wrote = self._file is not None
        self._close()
        if wrote and not self._in_order:
            sort(self._part(trainer.global_rank), self._streams)
        parts = [self._part(rank) for rank, has_rows in enumerate(gather_json(wrote)) if has_rows]
        if not trainer.is_global_zero:
            return
        away = [part.name for part in parts if not part.is_file()]
        if away:  # another machine's folder
            logger.warning("%s stay where they are: not in %s are %s", self._part(0).name, self._target.parent, ", ".join(away))
        elif len(parts) == 1:
            os.replace(parts[0], self._target)
        elif parts:
            merge(parts, self._target, self._streams)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep what is written."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
