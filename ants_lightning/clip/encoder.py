"""`TextEncoder`: features of texts, from the text tower or from what it made before."""

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

from ants_lightning.clip.fingerprints import text_tower_hash
from ants_lightning.clip.text_cache import CachedTexts, CacheFolder, Features
from ants_lightning.common.hashes import digest
from ants_lightning.common.settings import plain_path
from ants_lightning.method.checks import check_features

log = logging.getLogger(__name__)

_MANY = 10  # batches that are worth a progress bar


class TextEncoder:
    """Encodes texts in batches with an open_clip model and its tokenizer, each text once.

    A text met again comes from memory or from disk.

    Args:
        clip: an open_clip model, held by reference, not as a submodule.
        tokenizer: of the model.
        batch_size: texts per forward.
        cache_size: how many features are kept in memory; the oldest go first.
        cache_dir: folder for features of this and later runs, of any models; None: memory only. Features are
            kept by text, prompt included, and by text tower: other weights have a folder of their own.
        progress: show a progress bar for many texts (on a terminal, by the process of rank zero).
    """

    def __init__(
        self,
        clip: Any,
        tokenizer: Callable[[list[str]], Tensor],
        batch_size: int = 256,
        cache_size: int = 120_000,
        cache_dir: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        self.clip, self.tokenizer, self.batch_size, self.progress = clip, tokenizer, batch_size, progress
        self.cache_dir = None if cache_dir is None else Path(plain_path(cache_dir))
        self._memory = CachedTexts(cache_size)
        self._given = CachedTexts(sys.maxsize)  # of `remember`
        self._tower: tuple[list[Any], str] = ([], "")  # state of the weights, and their hash
        self._disk: CacheFolder | None = None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `(n, d)`, L2-normalised, float32, on the model's device.

        ValueError for no texts, and for a text whose features are 0 or NaN.
        """
        if not texts:
            raise ValueError("no texts to encode")
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = np.empty((0, 0), np.float32)
        for part, features in self._find(list(place)):
            if not len(found):
                found = np.empty((len(place), features.shape[1]), np.float32)
            if features.shape[1] != found.shape[1]:
                dims = f"{features.shape[1]} dimensions, other texts {found.shape[1]}"
                raise ValueError(f"{part[0]!r} has {dims}: not of one model")
            found[[place[text] for text in part]] = features
        if len(texts) != len(place):
            found = found[[place[text] for text in texts]]  # (n, d)
        return torch.from_numpy(found).to(next(self.clip.parameters()).device)

    def _find(self, texts: list[str]) -> Iterator[tuple[list[str], Features]]:
        """Texts with their features, in parts: those remembered, in memory, on disk, and the rest encoded."""
        disk = self._current_disk()
        for cached in (self._given, self._memory):
            if known := [text for text in texts if text in cached]:
                yield known, cached.get(known)
                texts = [text for text in texts if text not in cached]
        if disk and texts:
            left = dict.fromkeys(texts)
            for part, features in disk.find(texts):
                self._memory.put(part, features)
                yield part, features
                for text in part:
                    del left[text]
            texts = list(left)
        for part, features in self._encode(texts):
            self._memory.put(part, features)
            if disk:
                disk.put(part, features)
            yield part, features
        if disk:
            disk.settle()

    def _encode(self, texts: list[str]) -> Iterator[tuple[list[str], Features]]:
        """Texts with features from the text tower, batch by batch."""
        device = next(self.clip.parameters()).device
        starts = range(0, len(texts), self.batch_size)
        shown = self._shows_progress(len(starts))
        with Progress(transient=True, disable=not shown, console=get_console()) as bar:
            task = bar.add_task("Encoding texts", total=len(starts))
            for i in starts:
                part = texts[i : i + self.batch_size]
                with torch.autocast(device.type, enabled=False):
                    features = self.clip.encode_text(self.tokenizer(part).to(device)).float()  # (part, d)
                good = features.isfinite().all(1) & (features.norm(dim=1) > 0)
                if not good.all():
                    raise ValueError(f"the text {part[int((~good).nonzero()[0])]!r} encodes to 0 or NaN")
                yield part, F.normalize(features, dim=1).cpu().numpy()
                # Within another live display nothing else would refresh the bar.
                bar.update(task, advance=1, refresh=True)

    def _shows_progress(self, batches: int) -> bool:
        is_first_rank = getattr(rank_zero_only, "rank", 0) == 0
        return self.progress and batches >= _MANY and is_first_rank and get_console().is_terminal

    def remember(self, texts: Sequence[str], features: Tensor) -> None:
        """Take features of texts that were computed elsewhere; these texts are never encoded.

        They stay in memory, whatever `cache_size`, and do not go to disk. ValueError for features that are 0,
        NaN or Inf, that are not as many as the texts, or have another d than those of earlier calls.

        Args:
            texts: n texts.
            features: `(n, d)`; they are normalised here.
        """
        check_features("features", features, self._given.dim if len(self._given) else None)
        if len(texts) != len(features):
            raise ValueError(f"{len(texts)} texts with {len(features)} features")
        if not (nonzero := features.float().norm(dim=1) > 0).all():
            raise ValueError(f"the features of {texts[int((~nonzero).nonzero()[0])]!r} are 0")
        self._given.put(texts, F.normalize(features.detach().float(), dim=1).cpu().numpy())

    def first_same(self, texts: Sequence[str]) -> tuple[int, int] | None:
        """Places of the first two texts with the same tokens; None where all differ.

        Texts have the same tokens if they differ only in case, in blanks or beyond the context of the tower.
        Texts given to `remember` are left out.
        """
        seen = dict[bytes, int]()
        own = [i for i, text in enumerate(texts) if text not in self._given]
        all_tokens = self.tokenizer([texts[i] for i in own]) if own else ()
        for i, tokens in zip(own, all_tokens, strict=True):
            first = seen.setdefault(np.asarray(tokens).tobytes(), i)
            if first != i:
                return first, i
        return None

    @property
    def texts(self) -> list[str]:
        """The texts whose features are in memory."""
        return self._memory.texts

    def keep(self, texts: Sequence[str], features: Tensor) -> None:
        """Take features `(n, d)` back that this encoder made before, as after a resume.

        Encoded again in another batch, a text may differ in the last digits.
        """
        if texts:
            self._memory.put(texts, features.cpu().numpy())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the features depend on: the text tower, and what `remember` was given."""
        if not len(self._given):
            return self._tower_hash()
        texts = self._given.texts
        about = f"{self._tower_hash()} {texts}".encode()
        return digest(about, self._given.get(texts).tobytes())

    def _tower_hash(self) -> str:
        """The hash of the text tower, computed again only if weights were replaced, loaded or cast since."""
        tensors = self.clip.state_dict().values()
        state = [(t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in tensors]
        if self._tower[0] != state:
            self._tower = (state, text_tower_hash(self.clip, self.tokenizer))
        return self._tower[1]

    def _current_disk(self) -> CacheFolder | None:
        """The folder of the text tower as it is now; what was made by other weights leaves the memory."""
        if self.cache_dir is None:
            return None
        folder = self.cache_dir / self._tower_hash()
        if self._disk is None or self._disk.folder != folder:
            if self._disk:
                self._disk.flush()
                self._memory = CachedTexts(self._memory.capacity)
            self._disk = CacheFolder(folder)
        return self._disk

    def flush(self) -> None:
        """Write the features to disk that wait for it: calls with few new texts do not make a file each."""
        if self._disk:
            self._disk.flush()
