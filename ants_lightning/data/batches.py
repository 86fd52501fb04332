"""What batches and dataloaders may look like: ours and those of foreign data modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor


def unpack_batch(batch: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Image, label and index of a batch.

    Args:
        batch: `(image, label)`, `(image, label, index)`, or a mapping with `image` and optionally `label`, `index`;
            for prediction also the bare images. Negative label = OOD.

    Returns:
        Images `(n, 3, h, w)`; labels `(n,)` int64 or None; indices in the data set `(n,)` int64 or None.

    Raises:
        ValueError: anything else.
    """
    if isinstance(batch, Tensor):
        parts: list[Any] = [batch, None, None]
    elif isinstance(batch, Mapping) and "image" in batch:
        parts = [batch["image"], batch.get("label"), batch.get("index")]
    elif isinstance(batch, Sequence) and 1 <= len(batch) <= 3:
        parts = [*batch, None, None][:3]
    else:
        what = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch must be (image, label[, index]) or a dict with 'image' and 'label', got {what}")
    image = parts[0]
    if not isinstance(image, Tensor) or image.ndim != 4:
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"images must be a tensor (n, 3, h, w), got {shape}")
    columns = [None if x is None else torch.as_tensor(x, device=image.device).long() for x in parts[1:]]
    for name, x in zip(("label", "index"), columns, strict=True):
        if x is not None and x.shape != image.shape[:1]:
            raise ValueError(f"{len(image)} images with {name} of shape {tuple(x.shape)}")
    return image, columns[0], columns[1]


def stream_names(trainer: L.Trainer) -> dict[str, str]:
    """Name and group of each test dataloader, in order.

    Names are the keys of a dict of dataloaders, else `test`, `test_1`, …; groups come from the data module's `groups`
    (name → "near" or "far"), else all is `ood`.
    """
    loaders = trainer.test_dataloaders
    if isinstance(loaders, Mapping):
        names = [str(name) for name in loaders]
    else:
        count = len(loaders) if isinstance(loaders, Sequence) else 1
        names = ["test" if i == 0 else f"test_{i}" for i in range(count)]
    groups = getattr(trainer.datamodule, "groups", None) or {}  # type: ignore[attr-defined]
    return {name: groups.get(name, "ood") for name in names}


def test_loader(trainer: L.Trainer, dataloader_idx: int) -> Any:
    """The test dataloader of this number."""
    loaders = trainer.test_dataloaders
    if isinstance(loaders, Mapping):
        return list(loaders.values())[dataloader_idx]
    return loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders
