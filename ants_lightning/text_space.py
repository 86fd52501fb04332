"""Text spaces: labels with their features, in groups; and the encoder that makes features of texts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ants_lightning.scoring import group_order


class TextEncoder:
    """Encodes texts in batches with an open_clip model and its tokenizer; a text met again comes from the cache.

    Args:
        clip, tokenizer: an open_clip model (held by reference, not as a submodule) and its tokenizer.
        batch_size: texts per forward.
        cache_size: how many features are kept; the oldest go first.
    """

    def __init__(
        self, clip: Any, tokenizer: Callable[[list[str]], Tensor], batch_size: int = 256, cache_size: int = 50_000
    ) -> None:
        self.clip, self.tokenizer, self.batch_size, self.cache_size = clip, tokenizer, batch_size, cache_size
        self._cache: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `(n, d)`, L2-normalised, float32, on the model's device; ValueError for none, or one of 0 or NaN."""
        if not texts:
            raise ValueError("no texts to encode")
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        device = next(self.clip.parameters()).device
        for i in range(0, len(new), self.batch_size):
            part = new[i : i + self.batch_size]
            features = self.clip.encode_text(self.tokenizer(part).to(device)).float()
            good = features.isfinite().all(1) & (features.norm(dim=1) > 0)
            if not good.all():
                raise ValueError(f"the text {part[int((~good).nonzero()[0])]!r} encodes to 0 or NaN")
            self._cache.update(zip(part, F.normalize(features, dim=1), strict=True))
        found = torch.stack([self._cache[text].to(device) for text in texts])
        for text in list(self._cache)[: max(0, len(self._cache) - self.cache_size)]:
            del self._cache[text]
        return found


class TextSpace(nn.Module):
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
