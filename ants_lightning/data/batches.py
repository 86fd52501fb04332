"""What batches and dataloaders may look like: ours and those of foreign data modules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from ants_lightning.data.columns import size_of, whole

_WINDOW = 4_096  # indices that are remembered where a data set does not tell its size
_HINTS = {
    "label": "it is the place of the class name, 0…C-1, or negative for OOD; names, one-hot rows and "
    "detection targets are none",
    "index": "the third element of a batch, or `index` in a dict, must be the place of each image in its "
    "data set; leave out what is something else, and images are numbered as they come",
}


def unpack_batch(batch: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images `(n, 3, h, w)`, label `(n,)` and index `(n,)` of a batch; the last two int64 or None.

    A batch is `(image, label)`, `(image, label, index)`, a mapping with `image` and optionally `label` and
    `index`, or (for prediction) the bare images. In a mapping `features` `(n, d)` of the images may stand in
    their place. A negative label is OOD. Labels and indices are whole numbers of any type but bool, also as
    floats. Anything else is a ValueError.
    """
    if isinstance(batch, Tensor):
        parts: list[Any] = [batch, None, None]
    elif isinstance(batch, Mapping) and ("image" in batch or "features" in batch):
        parts = [batch.get("image", batch.get("features")), batch.get("label"), batch.get("index")]
    elif isinstance(batch, Sequence) and 1 <= len(batch) <= 3:
        parts = [*batch, None, None][:3]
    else:
        what = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(
            f"a batch must be (image, label[, index]) or a dict with 'image' and 'label', got {what}"
        )
    image, encoded = parts[0], isinstance(batch, Mapping) and "image" not in batch
    if not isinstance(image, Tensor) or image.ndim != (2 if encoded else 4):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        wanted = "features must be a tensor (n, d)" if encoded else "images must be a tensor (n, 3, h, w)"
        raise ValueError(f"{wanted}, got {shape}")
    label, index = (
        _whole_numbers(name, x, image) for name, x in zip(("label", "index"), parts[1:], strict=True)
    )
    return image, label, index


@dataclass(frozen=True)
class Batch:
    """A batch of a stream, with what is known of its images."""

    images: Tensor  # (n, 3, h, w), or features (n, d)
    label: Tensor | None  # (n,)
    index: Tensor | None  # (n,), places in the stream
    path: list[str] | None  # of n files
    # Images that could not be read, as of `reading.lost_item`, and those of `only`
    lost: list[dict[str, Any]]
    kept: Tensor | None = None  # rows of the batch as it came that are left after `only`; None: all

    @classmethod
    def read(cls, batch: Any) -> "Batch":
        """From any form of `unpack_batch`; a mapping may hold `path` and `lost` besides."""
        images, label, index = unpack_batch(batch)
        more = batch if isinstance(batch, Mapping) else {}
        return cls(images, label, index, more.get("path"), list(more.get("lost", ())))

    def only(self, good: Tensor) -> "Batch":
        """The batch without the rows where `good` `(n,)` is False: their features are NaN or Inf.

        The batch must have an index.
        """
        assert self.index is not None
        kept, lost = good.nonzero()[:, 0], list(self.lost)
        for i in (~good).nonzero()[:, 0].tolist():
            label = -1 if self.label is None else int(self.label[i])
            path = self.path[i] if self.path else ""
            lost.append(
                {"index": int(self.index[i]), "label": label, "path": path, "why": "NaN or Inf features"}
            )
        return replace(
            self,
            images=self.images[kept],
            label=None if self.label is None else self.label[kept],
            index=self.index[kept],
            path=[self.path[i] for i in kept.tolist()] if self.path else None,
            lost=lost,
            kept=kept,
        )


def _whole_numbers(name: str, column: Any, image: Tensor) -> Tensor | None:
    """A column of a batch as int64 `(n,)` on the device of its images.

    A ValueError names what is no whole number.
    """
    if column is None:
        return None
    try:
        found = torch.as_tensor(
            np.asarray(column) if hasattr(column, "iloc") else column, device=image.device
        )
    except (TypeError, ValueError, RuntimeError) as error:
        values = (
            list(column)
            if isinstance(column, Sequence | np.ndarray) and not isinstance(column, str)
            else [column]
        )
        wrong = next((value for value in values if whole(value) is None), column)
        got = f"{type(column).__name__} with {wrong!r:.80}"
        raise ValueError(f"{name} must be whole numbers (n,), got {got}; {_HINTS[name]}") from error
    if found.shape != image.shape[:1]:
        raise ValueError(
            f"{len(image)} images with {name} of shape {tuple(found.shape)}, it must be (n,); {_HINTS[name]}"
        )
    if found.dtype == torch.bool or found.is_complex():
        raise ValueError(
            f"{name} must be whole numbers (n,), got {found.dtype} with {found[:1].tolist()}; {_HINTS[name]}"
        )
    if found.is_floating_point():
        good = (found == found.round()) & (found.abs() < 2**53)  # neither NaN nor Inf
        if not good.all():
            raise ValueError(
                f"{name} must be whole numbers (n,), got {found[~good][0].item()}; {_HINTS[name]}"
            )
    return found.long()


class IndexCheck:
    """Checks that the `index` of batches can be places: whole numbers from 0 on, each once in a stream.

    A group, a domain or a mask in its place would put images in a wrong order and give the MLLM other images
    than are meant. What is kept does not grow with the stream: a byte an image where the number of images is
    known, else the newest 4,096 indices.

    Args:
        size: images of the data set; None: not known.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self._seen = torch.zeros(size or 0, dtype=torch.bool)
        self._newest = torch.empty(0, dtype=torch.long)

    def __call__(self, index: Tensor) -> None:
        """Take the indices `(n,)` of a batch; a ValueError names the first that is no index."""
        index = index.cpu()
        if not len(index):
            return
        if int(index.min()) < 0:
            raise ValueError(f"index {int(index.min())} is negative; {_HINTS['index']}")
        if self.size is not None and int(index.max()) >= self.size:
            raise ValueError(
                f"index {int(index.max())} of a data set of {self.size} images; {_HINTS['index']}"
            )
        known = torch.isin(index, self._newest) if self.size is None else self._seen[index]
        ordered = index.sort().values
        again = torch.cat([index[known], ordered[1:][ordered.diff() == 0]])
        if len(again):
            raise ValueError(f"index {int(again[0])} comes twice in a stream; {_HINTS['index']}")
        if self.size is None:
            self._newest = torch.cat([self._newest, index])[-_WINDOW:]
        else:
            self._seen[index] = True


def dataset_of(loader: Any) -> Any | None:
    """The data set of a dataloader; None where it tells none, like DALI's or an own class with `__iter__`."""
    return getattr(loader, "dataset", None)


def stream_of(loader: Any) -> Any | None:
    """The data set of a dataloader, if it is one of our streams; else None.

    Our streams have an `order` `(n,)` and a `description()`.
    """
    dataset = dataset_of(loader)
    ours = isinstance(getattr(dataset, "order", None), Tensor) and callable(
        getattr(dataset, "description", None)
    )
    return dataset if ours else None


def places_of(loader: Any) -> int | None:
    """How many places there are for the indices of a loader's batches; None: not known.

    For a part of a data set they are the places of the whole.
    """
    dataset = dataset_of(loader)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    # Else an item of the data set may be a batch
    one_by_one = getattr(loader, "batch_sampler", None) is not None
    return size_of(dataset) if one_by_one and not isinstance(dataset, IterableDataset) else None


def stream_loaders(trainer: L.Trainer) -> dict[str, Any]:
    """The dataloaders of the run by name, in order.

    Names are the keys of a dict of loaders; else they are `test`, `test_1`, … or `predict`, ….
    """
    what, loaders = (
        ("predict", trainer.predict_dataloaders) if trainer.predicting else ("test", trainer.test_dataloaders)
    )
    if isinstance(loaders, Mapping):
        named = {str(name): loader for name, loader in loaders.items()}
    else:
        loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
        named = {f"{what}_{i}" if i else what: loader for i, loader in enumerate(loaders)}
    if len(named) < len(loaders):
        raise ValueError(f"two dataloaders with one name: {list(loaders)}")
    for name, loader in named.items():
        if isinstance(loader, Mapping | list | tuple | str | Tensor | np.ndarray):
            raise ValueError(
                f"{what}_dataloader() may return one loader, a list of loaders, or a dict of loaders by "
                f"stream name, none of them nested: {name!r} is a {type(loader).__name__}. Batches of one's "
                "own go into a class with __iter__"
            )
    return named
