"""`TextEncoder`: features of texts, from the text tower or from what it made before."""

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

from ants_lightning.clip.text_cache import Rows, Shards, Table, tower_hash
from ants_lightning.common.settings import plain_path
from ants_lightning.method.checks import check_features

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
