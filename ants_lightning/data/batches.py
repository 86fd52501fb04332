"""What batches and dataloaders may look like: ours and those of foreign data modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor


def unpack_batch(batch: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images `(n, 3, h, w)`, label `(n,)` and index `(n,)` of a batch; the last two int64 or None.

    A batch is `(image, label)`, `(image, label, index)`, a mapping with `image` and optionally `label` and `index`, or
    (for prediction) the bare images. In a mapping `features` `(n, d)` of the images may stand in their place. A negative label is
    OOD. Anything else is a ValueError.
    """
    if isinstance(batch, Tensor):
        parts: list[Any] = [batch, None, None]
    elif isinstance(batch, Mapping) and ("image" in batch or "features" in batch):
        parts = [batch.get("image", batch.get("features")), batch.get("label"), batch.get("index")]
    elif isinstance(batch, Sequence) and 1 <= len(batch) <= 3:
        parts = [*batch, None, None][:3]
    else:
        what = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch must be (image, label[, index]) or a dict with 'image' and 'label', got {what}")
    image, encoded = parts[0], isinstance(batch, Mapping) and "image" not in batch
    if not isinstance(image, Tensor) or image.ndim != (2 if encoded else 4):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        wanted = "features must be a tensor (n, d)" if encoded else "images must be a tensor (n, 3, h, w)"
        raise ValueError(f"{wanted}, got {shape}")
    columns: list[Tensor | None] = []
    for name, x in zip(("label", "index"), parts[1:], strict=True):
        try:
            columns.append(None if x is None else torch.as_tensor(x, device=image.device).long())
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be whole numbers (n,), got {type(x).__name__}") from error
        if x is not None and columns[-1].shape != image.shape[:1]:  # type: ignore[union-attr]
            raise ValueError(f"{len(image)} images with {name} of shape {tuple(columns[-1].shape)}")  # type: ignore[union-attr]
    return image, columns[0], columns[1]


def stream_loaders(trainer: L.Trainer) -> dict[str, Any]:
    """The dataloaders of the run by name, in order: the keys of a dict of them, else `test`, `test_1`, … or `predict`, …."""
    what, loaders = ("predict", trainer.predict_dataloaders) if trainer.predicting else ("test", trainer.test_dataloaders)
    if isinstance(loaders, Mapping):
        return {str(name): loader for name, loader in loaders.items()}
    loaders = loaders if isinstance(loaders, Sequence) else [loaders]
    return {f"{what}_{i}" if i else what: loader for i, loader in enumerate(loaders)}
