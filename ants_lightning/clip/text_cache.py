"""Text features by their text: a bounded number in memory, and files on disk for the next run. No pickle."""

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ants_lightning.common.files import write_atomically
from ants_lightning.common.hashes import digest

Features = NDArray[np.float32]  # (n, d), one row a text

log = logging.getLogger(__name__)

_PER_FILE = 4096  # texts, where there are many
_WORTH_A_FILE = 64  # fewer new texts than this wait for `flush`


def pack_features(texts: Sequence[str], features: Features, **metadata: str) -> bytes:
    """The content of a safetensors file with texts and their features `(n, d)`."""
    features = np.ascontiguousarray(features, np.float32)
    sha256 = digest(features.tobytes())
    metadata |= {"texts": json.dumps(list(texts)), "sha256": sha256}
    return save({"features": features}, metadata)


def write_features(path: Path, texts: Sequence[str], features: Features, **metadata: str) -> None:
    """Write texts with features `(n, d)` to a safetensors file, atomically."""
    write_atomically(path, pack_features(texts, features, **metadata))


def read_texts(path: Path) -> list[str]:
    """The texts of a file of `write_features`, read from its header alone.

    ValueError for a file that is torn or something else.
    """
    return _read(path, with_features=False)[0]


def read_features(path: Path) -> tuple[list[str], Features, dict[str, str]]:
    """Texts, features `(n, d)` and other metadata of a file of `write_features`.

    ValueError for a file that is torn, altered or something else.
    """
    return _read(path, with_features=True)


def _read(path: Path, with_features: bool) -> tuple[list[str], Features, dict[str, str]]:
    features = np.empty((0, 0), np.float32)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            texts = json.loads(metadata["texts"])
            are_texts = all(isinstance(text, str) for text in texts)
            if not are_texts or len(texts) != file.get_slice("features").get_shape()[0]:
                raise ValueError("not one text for each row")
            if with_features:
                features = file.get_tensor("features")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if with_features and digest(features.tobytes()) != metadata.get("sha256"):
        raise ValueError(f"{path} cannot be read: its features are not those written")
    return texts, features, metadata


class CachedTexts:
    """Features by text in memory, in one matrix.

    Args:
        capacity: how many texts it holds; the oldest go first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._place: OrderedDict[str, int] = OrderedDict()  # row of each text, oldest first
        self._features = np.empty((0, 0), np.float32)  # (at least len(self), d)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, text: str) -> bool:
        return text in self._place

    def get(self, texts: Sequence[str]) -> Features:
        """A copy of the features `(n, d)` of texts, all of which it holds."""
        return self._features[[self._place[text] for text in texts]]

    def put(self, texts: Sequence[str], features: Features) -> None:
        """Take texts with features `(n, d)`; a known text keeps its age and gets the new features."""
        first = max(0, len(texts) - self.capacity)
        places = [self._make_place(text) for text in texts[first:]]
        if len(self) > len(self._features):
            self._grow(features.shape[1])
        self._features[places] = features[first:]

    def _make_place(self, text: str) -> int:
        if text in self._place:
            return self._place[text]
        is_full = len(self) == self.capacity
        self._place[text] = self._place.popitem(last=False)[1] if is_full else len(self)
        return self._place[text]

    def _grow(self, dim: int) -> None:
        """Make room for all texts, and for as many again up to the capacity."""
        size = min(self.capacity, max(len(self), 2 * len(self._features)))
        grown = np.empty((size, dim), np.float32)
        grown[: len(self._features)] = self._features.reshape(-1, dim)
        self._features = grown

    @property
    def dim(self) -> int:
        """Dimension d of the features; 0 as long as there were none."""
        return self._features.shape[1]

    @property
    def texts(self) -> list[str]:
        """All texts, oldest first."""
        return list(self._place)


class CacheFolder:
    """Features by text in the files of one folder, which this run and others write.

    A file is `<sha256 of the texts>.safetensors`. Several processes may use one folder at once: files appear
    whole, and files of equal texts have equal names. A file that cannot be read is named in one warning, and
    its texts are not found.

    Args:
        folder: of one text tower; made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[str, NDArray[np.float32]] = {}  # features (d,) by text, not written yet
        self._files: dict[str, tuple[Path, int]] | None = None  # file and row by text; None: not looked yet

    def find(self, texts: Sequence[str]) -> Iterator[tuple[list[str], Features]]:
        """Those of the texts that it has, with their features `(n, d)`, file by file."""
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
                features = read_features(path)[1]
            except ValueError as error:
                log.warning("text cache: %s; delete it, its texts are encoded anew", error)
                for text in [text for text, place in files.items() if place[0] == path]:
                    del files[text]
            else:
                yield part, features[[files[text][1] for text in part]]

    def _index(self) -> dict[str, tuple[Path, int]]:
        """File and row of each text that is on disk; of two files with a text the newer counts."""
        if self._files is None:
            self._files = {}
            paths = self.folder.glob("*.safetensors")
            for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
                try:
                    self._files.update({text: (path, row) for row, text in enumerate(read_texts(path))})
                except ValueError as error:
                    log.warning("text cache: %s; delete it, its texts are encoded anew", error)
        return self._files

    def put(self, texts: Sequence[str], features: Features) -> None:
        """Take new texts with features `(n, d)`, to be written when there are some thousand.

        The last ones are written by `settle` or `flush`.
        """
        self._new.update(zip(texts, features, strict=True))
        if len(self._new) >= _PER_FILE:
            self.flush()

    def settle(self) -> None:
        """Write what waits, if it is worth a file."""
        if len(self._new) >= _WORTH_A_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what waits; a failure, as on a full or read-only disk, is a warning."""
        if not self._new:
            return
        texts, features = list(self._new), np.stack(list(self._new.values()))
        path = self.folder / f"{digest(json.dumps(texts).encode())}.safetensors"
        try:
            write_features(path, texts, features)
        except OSError as error:
            log.warning("text cache: %s texts are not kept: %s", len(texts), error)
        else:
            self._index().update({text: (path, row) for row, text in enumerate(texts)})
        self._new = {}
