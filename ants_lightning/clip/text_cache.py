"""Text features by their text: a bounded table in memory, and files on disk for the next run. No pickle."""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ants_lightning.common.files import write_atomically

Rows = NDArray[np.float32]  # features (n, d)

log = logging.getLogger(__name__)

_SHARD = 4096  # texts a file, of many
_ENOUGH = 64  # fewer new texts than this wait for `flush`
_PROBE = "A photo of 2 Zebras, naïve & déjà-vu -- don't <end>!"


def tower_hash(clip: Any, tokenizer: Callable[[list[str]], Tensor]) -> str:
    """SHA-256 of what makes a text's features: the text tower's modules, their settings, weights and dtypes, and the tokens.

    Everything but the submodule `visual` counts as the text tower. What a module is set to are its numbers, strings and flags
    (heads, pooling, epsilon): two towers of equal weights may differ in these alone, as QuickGELU and GELU do in their class.
    """
    found = hashlib.sha256()
    for name, module in clip.named_modules():
        if name.split(".")[0] != "visual":
            known = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str) and k[0] != "_" and k != "training"}
            found.update(f"{name} {type(module).__name__} {sorted(known.items())}\n".encode())
    for name, tensor in clip.state_dict().items():
        if name.split(".")[0] != "visual":
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    found.update(f"{tokenizer([_PROBE]).tolist()}".encode())
    return found.hexdigest()


def pack_features(texts: Sequence[str], rows: Rows, **metadata: str) -> bytes:
    """Texts with features `(n, d)` as safetensors."""
    rows = np.ascontiguousarray(rows, np.float32)
    metadata |= {"texts": json.dumps(list(texts)), "sha256": hashlib.sha256(rows.tobytes()).hexdigest()}
    return save({"features": rows}, metadata)


def write_features(path: Path, texts: Sequence[str], rows: Rows, **metadata: str) -> None:
    """Write texts with features `(n, d)` as safetensors, atomically."""
    write_atomically(path, pack_features(texts, rows, **metadata))


def read_texts(path: Path) -> list[str]:
    """The texts of a file of `write_features`, from its header alone; ValueError where it is torn, or none."""
    return _read(path, with_rows=False)[0]


def read_features(path: Path) -> tuple[list[str], Rows, dict[str, str]]:
    """Texts, features `(n, d)` and other metadata of a file of `write_features`; ValueError where it is torn, altered, or none."""
    return _read(path, with_rows=True)


def _read(path: Path, with_rows: bool) -> tuple[list[str], Rows, dict[str, str]]:
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            texts = json.loads(metadata["texts"])
            if len(texts) != file.get_slice("features").get_shape()[0] or not all(isinstance(text, str) for text in texts):
                raise ValueError("not one text for each row")
            rows = file.get_tensor("features") if with_rows else np.empty((0, 0), np.float32)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if with_rows and hashlib.sha256(rows.tobytes()).hexdigest() != metadata.get("sha256"):
        raise ValueError(f"{path} cannot be read: its features are not those written")
    return texts, rows, metadata


class Table:
    """Features by text in one matrix, in memory.

    Args:
        capacity: how many texts it holds; the oldest go first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._place: OrderedDict[str, int] = OrderedDict()  # oldest first
        self._rows = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, text: str) -> bool:
        return text in self._place

    def get(self, texts: Sequence[str]) -> Rows:
        """Features `(n, d)` of texts that are in it, a copy."""
        return self._rows[[self._place[text] for text in texts]]

    def put(self, texts: Sequence[str], rows: Rows) -> None:
        """Take texts with features `(n, d)`; a known text keeps its age and gets new features."""
        first = max(0, len(texts) - self.capacity)
        places = [self._make_place(text) for text in texts[first:]]
        if len(self) > len(self._rows):
            grown = np.empty((min(self.capacity, max(len(self), 2 * len(self._rows))), rows.shape[1]), np.float32)
            grown[: len(self._rows)] = self._rows.reshape(-1, rows.shape[1])
            self._rows = grown
        self._rows[places] = rows[first:]

    def _make_place(self, text: str) -> int:
        if text not in self._place:
            self._place[text] = len(self) if len(self) < self.capacity else self._place.popitem(last=False)[1]
        return self._place[text]

    @property
    def dim(self) -> int:
        """D of the features; 0 at first."""
        return self._rows.shape[1]

    @property
    def texts(self) -> list[str]:
        """All texts, oldest first."""
        return list(self._place)


class Shards:
    """Features by text in files of one folder, `<sha256 of the texts>.safetensors`, made by this and by earlier runs.

    Several processes may use one folder at once: files appear whole, and those of equal texts have equal names. A file that cannot
    be read is named in one warning, and its texts are not found.

    Args:
        folder: of one text tower; made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[str, Rows] = {}  # each of shape (d,)
        self._files: dict[str, tuple[Path, int]] | None = None

    def find(self, texts: Sequence[str]) -> Iterator[tuple[list[str], Rows]]:
        """Those of the texts that are in it with their features `(n, d)`, file by file."""
        waiting = [text for text in texts if text in self._new]
        if waiting:
            yield waiting, np.stack([self._new[text] for text in waiting])
        files = self._index()
        by_file: dict[Path, list[str]] = {}
        for text in texts:
            if text in files and text not in self._new:
                by_file.setdefault(files[text][0], []).append(text)
        for path, part in by_file.items():
            try:
                rows = read_features(path)[1]
            except ValueError as error:
                log.warning("text cache: %s; delete it, its texts are encoded anew", error)
                for text in [text for text, place in files.items() if place[0] == path]:
                    del files[text]
            else:
                yield part, rows[[files[text][1] for text in part]]

    def _index(self) -> dict[str, tuple[Path, int]]:
        if self._files is None:
            self._files = {}
            for path in sorted(self.folder.glob("*.safetensors"), key=lambda path: (path.stat().st_mtime_ns, path)):  # newest last
                try:
                    self._files.update({text: (path, row) for row, text in enumerate(read_texts(path))})
                except ValueError as error:
                    log.warning("text cache: %s; delete it, its texts are encoded anew", error)
        return self._files

    def put(self, texts: Sequence[str], rows: Rows) -> None:
        """Take new texts with features `(n, d)`; they are written in files of some thousand, the rest by `settle` or `flush`."""
        self._new.update(zip(texts, rows, strict=True))
        if len(self._new) >= _SHARD:
            self.flush()

    def settle(self) -> None:
        """Write what waits, if it is worth a file."""
        if len(self._new) >= _ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Write what waits. A full or read-only disk costs the cache, not the run: a warning."""
        if not self._new:
            return
        texts, rows = list(self._new), np.stack(list(self._new.values()))
        path = self.folder / f"{hashlib.sha256(json.dumps(texts).encode()).hexdigest()}.safetensors"
        try:
            write_features(path, texts, rows)
        except OSError as error:
            log.warning("text cache: %s texts are not kept: %s", len(texts), error)
        else:
            self._index().update({text: (path, row) for row, text in enumerate(texts)})
        self._new = {}
