"""Rows of predictions in CSV and Parquet, written piece by piece, sorted and merged in little memory."""

from __future__ import annotations

import csv
import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Row = dict[str, Any]
BEFORE = {
    "stream": "string",
    "index": "int64",
    "path": "string",
    "label": "int64",
    "prediction": "int64",
    "class_name": "string",
}
# And between these a float64 a score
AFTER = {"lambda": "float64", "threshold": "float64", "is_ood": "bool", "lost": "string"}
_TEXTS = [name for name, kind in (BEFORE | AFTER).items() if kind == "string"]
# What a spreadsheet would run, with apostrophes of its own before it
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
ROWS = 10_000  # in a row group of Parquet
PIECE = 50_000  # rows in memory while a file is sorted


def _cell(text: str | None) -> str | None:
    return f"'{text}" if text and _FORMULA.match(text) else text


def _text(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def escaped(text: str | None) -> str | None:
    """A text with all that is no Unicode written out in ASCII: bytes of a path, halves of characters."""
    return text and text.encode("utf-8", "backslashreplace").decode()


class CSVFile:
    """Rows to a CSV file: UTF-8, but a file name in other bytes keeps them; nothing for None.

    A text that a spreadsheet would run as a formula gets an apostrophe before it, which `read` takes away.
    """

    def __init__(self, path: Path, scores: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._csv = csv.DictWriter(self._file, [*BEFORE, *scores, *AFTER])
        self._csv.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are there when this returns."""
        self._csv.writerows({**row, **{name: _cell(row[name]) for name in _TEXTS}} for row in rows)
        self._file.flush()

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> Iterator[Row]:
        """The rows of a file, as strings."""
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                yield {**row, **{name: _text(row[name]) for name in _TEXTS}}


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
        self._rows += [{**row, "path": escaped(row["path"])} for row in rows]
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


def merge(parts: Sequence[Path], target: Path, streams: Sequence[str]) -> None:
    """Merge files of one format, each in order of (stream, index), into another; few rows are in memory.

    Args:
        parts: the files, at least one.
        target: none of them.
        streams: names in their order.
    """
    kind = FORMATS[target.suffix]
    sources = [kind.read(part) for part in parts]
    rows = heapq.merge(*sources, key=_key(streams))
    first = next(rows)
    with closing(kind(target, [name for name in first if name not in BEFORE | AFTER])) as file:
        file.write([first])
        for some in _batched(rows, 1000):
            file.write(some)


def sort(path: Path, streams: Sequence[str]) -> None:
    """Bring the rows of a file in order of (stream, index): sorted pieces of `PIECE` rows, merged."""
    kind, pieces = FORMATS[path.suffix], list[Path]()
    with beside(path) as folder:
        for rows in _batched(kind.read(path), PIECE):
            pieces.append(Path(folder) / f"{len(pieces)}{path.suffix}")
            with closing(kind(pieces[-1], [name for name in rows[0] if name not in BEFORE | AFTER])) as file:
                file.write(sorted(rows, key=_key(streams)))
        whole = Path(folder) / f"whole{path.suffix}"
        merge(pieces, whole, streams)
        os.replace(whole, path)


def beside(path: Path) -> TemporaryDirectory[str]:
    """A folder on the same disk."""
    return TemporaryDirectory(prefix=".ants_lightning-", dir=path.parent)


def _batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    return iter(lambda: list(islice(rows, size)), [])


def _key(streams: Sequence[str]) -> Callable[[Row], tuple[int, int]]:
    place = {escaped(name): i for i, name in enumerate(streams)}
    return lambda row: (place[row["stream"]], int(row["index"]))
