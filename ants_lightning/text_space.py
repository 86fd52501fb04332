"""Text spaces: labels with their features, in groups; and the encoder that makes features of texts."""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich import get_console
from rich.progress import Progress
from torch import Tensor

from ants_lightning.exact import ExactBuffers
from ants_lightning.plain import plain_path
from ants_lightning.scoring import check_features, group_order
from ants_lightning.text_cache import Rows, Shards, Table, pack_features, read_features, tower_hash, write_atomically
from ants_lightning.text_files import as_lines, read_lines

log = logging.getLogger(__name__)

_MANY = 10  # batches that are worth a progress bar


class TextEncoder:
    """Encodes texts in batches with an open_clip model and its tokenizer; a text met again comes from memory, or from disk.

    Args:
        clip, tokenizer: an open_clip model (held by reference, not as a submodule) and its tokenizer.
        batch_size: texts per forward.
        cache_size: how many features are kept in memory; the oldest go first.
        cache_dir: folder for features of this and later runs, of all models; None: memory only. A text's features are those of this
            text (prompt included) and this text tower: other weights have a folder of their own.
        progress: show a progress bar for many texts (on a terminal, by the process of rank zero).
    """

    def __init__(
        self, clip: Any, tokenizer: Callable[[list[str]], Tensor], batch_size: int = 256, cache_size: int = 120_000,
        cache_dir: str | Path | None = None, progress: bool = True,
    ) -> None:  # fmt: skip
        self.clip, self.tokenizer, self.batch_size, self.progress = clip, tokenizer, batch_size, progress
        self.cache_dir = None if cache_dir is None else Path(plain_path(cache_dir))
        self._memory, self._given = Table(cache_size), Table(sys.maxsize)
        self._tower: tuple[list[Any], str] = ([], "")
        self._shards: Shards | None = None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `(n, d)`, L2-normalised, float32, on the model's device; ValueError for none, or one of 0 or NaN."""
        if not texts:
            raise ValueError("no texts to encode")
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = np.empty((0, 0), np.float32)
        for part, rows in self._find(list(place)):
            if not len(found):
                found = np.empty((len(place), rows.shape[1]), np.float32)
            if rows.shape[1] != found.shape[1]:
                raise ValueError(f"{part[0]!r} has {rows.shape[1]} dimensions, other texts {found.shape[1]}: not of one model")
            found[[place[text] for text in part]] = rows
        if len(texts) != len(place):
            found = found[[place[text] for text in texts]]
        return torch.from_numpy(found).to(next(self.clip.parameters()).device)

    def _find(self, texts: list[str]) -> Iterator[tuple[list[str], Rows]]:
        """Texts with their features, in parts: what was given, what is in memory, on disk, and the rest encoded."""
        shards = self._current_shards()
        for table in (self._given, self._memory):
            if known := [text for text in texts if text in table]:
                yield known, table.get(known)
                texts = [text for text in texts if text not in table]
        if shards and texts:
            left = dict.fromkeys(texts)
            for part, rows in shards.find(texts):
                self._memory.put(part, rows)
                yield part, rows
                for text in part:
                    del left[text]
            texts = list(left)
        for part, rows in self._encode(texts):
            self._memory.put(part, rows)
            if shards:
                shards.put(part, rows)
            yield part, rows
        if shards:
            shards.settle()

    def _encode(self, texts: list[str]) -> Iterator[tuple[list[str], Rows]]:
        device = next(self.clip.parameters()).device
        starts = range(0, len(texts), self.batch_size)
        shown = self.progress and len(starts) >= _MANY and getattr(rank_zero_only, "rank", 0) == 0 and get_console().is_terminal
        with Progress(transient=True, disable=not shown, console=get_console()) as bar:
            task = bar.add_task("Encoding texts", total=len(starts))
            for i in starts:
                part = texts[i : i + self.batch_size]
                with torch.autocast(device.type, enabled=False):
                    features = self.clip.encode_text(self.tokenizer(part).to(device)).float()
                good = features.isfinite().all(1) & (features.norm(dim=1) > 0)
                if not good.all():
                    raise ValueError(f"the text {part[int((~good).nonzero()[0])]!r} encodes to 0 or NaN")
                yield part, F.normalize(features, dim=1).cpu().numpy()
                bar.update(task, advance=1, refresh=True)  # within another live display nothing else refreshes it

    def remember(self, texts: Sequence[str], features: Tensor) -> None:
        """Take features `(n, d)` of texts that were computed elsewhere, normalised here; these texts are never encoded.

        They stay in memory, whatever `cache_size`, and do not go to disk. ValueError for features that are 0, NaN or Inf, another
        number of them than of texts, or another d than before.
        """
        check_features("features", features, self._given.dim if len(self._given) else None)
        if len(texts) != len(features):
            raise ValueError(f"{len(texts)} texts with {len(features)} features")
        if not (nonzero := features.float().norm(dim=1) > 0).all():
            raise ValueError(f"the features of {texts[int((~nonzero).nonzero()[0])]!r} are 0")
        self._given.put(texts, F.normalize(features.detach().float(), dim=1).cpu().numpy())

    def first_same(self, texts: Sequence[str]) -> tuple[int, int] | None:
        """The first two texts that the tokenizer makes one (case, blanks, what is beyond the context); None: all differ.

        Those that `remember` has taken are not looked at.
        """
        seen = dict[bytes, int]()
        own = [i for i, text in enumerate(texts) if text not in self._given]
        for i, tokens in zip(own, self.tokenizer([texts[i] for i in own]) if own else (), strict=True):
            first = seen.setdefault(np.asarray(tokens).tobytes(), i)
            if first != i:
                return first, i
        return None

    @property
    def texts(self) -> list[str]:
        """The texts whose features are in memory."""
        return self._memory.texts

    def keep(self, texts: Sequence[str], features: Tensor) -> None:
        """Take features `(n, d)` that it made before: encoded in other company they would differ in the last digits."""
        if texts:
            self._memory.put(texts, features.cpu().numpy())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the features of this encoder depend on: `text_cache.tower_hash`, and what it was told to remember."""
        if not len(self._given):
            return self._tower_hash()
        texts = self._given.texts
        return hashlib.sha256(f"{self._tower_hash()} {texts}".encode() + self._given.get(texts).tobytes()).hexdigest()

    def _tower_hash(self) -> str:
        """The hash of the text tower, computed again only where weights were replaced, loaded or cast since."""
        state = [(t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in self.clip.state_dict().values()]
        if self._tower[0] != state:
            self._tower = (state, tower_hash(self.clip, self.tokenizer))
        return self._tower[1]

    def _current_shards(self) -> Shards | None:
        if self.cache_dir is None:
            return None
        folder = self.cache_dir / self._tower_hash()
        if self._shards is None or self._shards.folder != folder:
            if self._shards:  # the weights changed: what is in memory was made by others
                self._shards.flush()
                self._memory = Table(self._memory.capacity)
            self._shards = Shards(folder)
        return self._shards

    def flush(self) -> None:
        """Write to disk what waits for it: of calls with few new texts, that are not worth a file each."""
        if self._shards:
            self._shards.flush()


def read_labels(folder: Path | str, name: str) -> list[str]:
    """The texts of a label bank, the lines of `<name>.txt` in their order; blank lines and repeated ones are dropped.

    Control characters are taken out, with a warning. ValueError for no such file, one that is no text, or holds none.
    """
    path = Path(plain_path(folder)) / f"{name}.txt"
    if not path.is_file():
        raise ValueError(f"no such label bank: {str(path)!r}")
    labels = list(dict.fromkeys(filter(None, read_lines(path, "label bank", clean=True))))
    if not labels:
        raise ValueError(f"{path} holds no text")
    return labels


class TextSpace(ExactBuffers):
    """A negative space: texts, oldest first, with features `(n, d)`.

    Args:
        dim, num_groups: d of the features, G of the score.
        capacity: how many texts it holds; of more the **newest** stay.
    """

    features: Tensor

    def __init__(self, dim: int, num_groups: int = 1, capacity: int | None = None) -> None:
        super().__init__()
        if capacity is not None and capacity < 1:
            raise ValueError(f"the capacity of a text space must be at least 1, got {capacity}")
        self.num_groups, self.capacity = num_groups, capacity
        self.labels: list[str] = []
        self.register_buffer("features", torch.empty(0, dim), persistent=False)

    def __len__(self) -> int:
        return len(self.labels)

    def push(self, labels: Sequence[str], features: Tensor) -> int:
        """Append n texts with features `(n, d)`, FIFO; one already there becomes the newest. Returns how many were new."""
        if len(labels) != len(features):
            raise ValueError(f"{len(labels)} texts with {len(features)} features")
        known, texts = set(self.labels), [*self.labels, *labels]
        newest = {text: place for place, text in enumerate(texts)}
        keep = sorted(newest.values())[-(self.capacity or len(texts)) :]
        # Replaced, never edited in place: under `trainer.test` these are inference tensors.
        self.features = torch.cat([self.features, features.to(self.features)])[keep]
        self.labels = [texts[place] for place in keep]
        return len(set(labels) - known)

    def replace(self, labels: Sequence[str], features: Tensor) -> None:
        """Put these texts in place of all others."""
        self.clear()
        self.push(labels, features)

    def clear(self) -> None:
        """Drop all texts."""
        self.labels, self.features = [], self.features[:0]

    def grouped(self) -> Tensor:
        """Features `(n, d)` in the order of the groups (`scoring.group_order`)."""
        return self.features[group_order(len(self), self.num_groups).to(self.features.device)]

    def bank(self, name: str, encoder: TextEncoder) -> dict[str, bytes]:
        """The two files of a label bank by name (see `save`), none where there are no lines."""
        lines = as_lines(self.labels)
        if other := [text for place, text in enumerate(self.labels) if lines.get(text.strip()) != place]:
            log.warning("%s: %s of %s texts are no lines and saved cleaned, or not: %r", name, len(other), len(self), other[0])
        if not lines:
            return {}
        rows = self.features.float().cpu().numpy()[list(lines.values())]
        return {
            f"{name}.safetensors": pack_features(list(lines), rows, fingerprint=encoder.fingerprint),
            f"{name}.txt": "".join(f"{line}\n" for line in lines).encode(),
        }

    def save(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Write a label bank: `<name>.txt`, a text a line, to be read, edited and shared, and `<name>.safetensors`, their features.

        A text that is no line (with a line break or another control character in it) is cleaned to one and keeps its features; one
        of which nothing is left, or that is then there twice, is left out; a warning tells. ValueError, and nothing written, for no
        texts.

        Args:
            folder: made where it isn't there.
            name: of both files.
            encoder: the one that made the features.
        """
        files = self.bank(name, encoder)
        if not files:
            raise ValueError(f"no texts to save as {name!r} in {str(folder)!r}")
        for file, content in files.items():
            write_atomically(Path(folder) / file, content)

    def load(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Put the texts of a label bank in place of all others, those of `read_labels`.

        Features come from `<name>.safetensors` where a line is in it and the same text tower made it, and from `encoder` otherwise.
        ValueError for what `read_labels` refuses, or features that are NaN or have another d.
        """
        path = Path(plain_path(folder)) / f"{name}.txt"
        labels = read_labels(folder, name)
        known = self._features_of_bank(path.with_suffix(".safetensors"), encoder)
        if new := [text for text in labels if text not in known]:
            log.info("%s: %s of %s texts have no features and are encoded", path, len(new), len(labels))
            encoded = encoder(new).cpu()
            check_features("text features of the encoder", encoded, self.features.shape[1])
            known.update(zip(new, encoded, strict=True))
        self.replace(labels, torch.stack([known[text] for text in labels]))

    def _features_of_bank(self, path: Path, encoder: TextEncoder) -> dict[str, Tensor]:
        if not path.is_file():
            return {}
        try:
            texts, rows, metadata = read_features(path)
        except ValueError as error:
            log.warning("label bank: %s", error)
            return {}
        if metadata.get("fingerprint") != encoder.fingerprint:
            log.warning("label bank: the features of %s are of another model; the texts are encoded anew", path)
            return {}
        features = torch.from_numpy(rows)
        check_features(f"features of {path}", features, self.features.shape[1])
        return {text.strip(): row for text, row in zip(texts, features, strict=True)}
