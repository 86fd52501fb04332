"""What a data set tells of its images without decoding them: paths and labels, in columns of any kind."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

NO_LABEL = torch.iinfo(torch.int64).min  # in a column: a label that is no whole number
_LARGEST = 2**53  # up to here every whole number is a float, too


def whole(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as int; None for all else, and for a bool.

    A float without a fraction and an array of one number count as whole numbers.

    >>> whole(torch.tensor(3.0)), whole(2.5), whole(True), whole("3")
    (3, None, None, None)
    """
    if type(value) is not int:
        try:
            found = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors of another device
            return None
        if found.size != 1 or found.dtype.kind not in "iuf":
            return None
        value = found.item()
    return int(value) if abs(value) < _LARGEST and value == int(value) else None


def id_label(label: Any, place: int, dataset: Any, negative: bool = False) -> int:
    """The label of an image of the ID set; a ValueError names an image whose label cannot be one.

    `negative` labels may be let pass.
    """
    number = whole(label)
    whose = f"image {place} of the ID set ({type(dataset).__name__})"
    if number is None:
        raise ValueError(
            f"{whose} has the label {label!r:.80}: a label must be a number 0…C-1, the place of its class "
            f"name"
        )
    if number < 0 and not negative:
        raise ValueError(f"image {place} of the ID set has the negative label {number}")
    return number


def size_of(dataset: Any) -> int | None:
    """Number of images; None where it is not known."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _columns(dataset: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The columns that are there with one row an image, to be taken by position."""
    for name in names:
        try:
            column = getattr(dataset, name, None)
            fits = not isinstance(column, str | bytes | Mapping) and len(column) == len(dataset)  # type: ignore[arg-type]
        except Exception:  # a property of a foreign class may raise anything
            continue
        if fits:
            yield name, getattr(column, "iloc", column)  # of pandas: by position, whatever its index


def _member(dataset: Any, place: int) -> tuple[Any, int] | None:
    """For a part or a chain of data sets: the one that has the image, and its place there."""
    if isinstance(dataset, Subset):
        return dataset.dataset, int(dataset.indices[place])  # as `Subset.__getitem__` looks it up
    if isinstance(dataset, ConcatDataset):
        which = bisect_right(dataset.cumulative_sizes, place)
        return dataset.datasets[which], place - (dataset.cumulative_sizes[which - 1] if which else 0)
    return None


def _passes_on(dataset: Any) -> bool:
    """Whether a part or a chain gives the items of its members as they are."""
    return type(dataset).__getitem__ in (Subset.__getitem__, ConcatDataset.__getitem__)


def _path(row: Any) -> str | None:
    """A path, or the first of a row `(path, label)`."""
    if not isinstance(row, str | os.PathLike):
        row = next(iter(row), None) if isinstance(row, tuple | list) or getattr(row, "ndim", 0) == 1 else None
    return os.fspath(row) if isinstance(row, str | os.PathLike) else None


def knows_paths(dataset: Any) -> bool:
    """Whether `path_of` can tell anything."""
    if isinstance(dataset, Subset):
        return knows_paths(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return any(map(knows_paths, dataset.datasets))
    return any(True for _ in _columns(dataset, ("paths", "samples", "imgs")))


def path_of(dataset: Any, place: int) -> str:
    """The path of an image, from `paths`, `samples` or `imgs` of the data set; "" where it tells none.

    A column of another length than the data set is not one of its images.
    """
    if member := _member(dataset, place):
        return path_of(*member)
    for _, column in _columns(dataset, ("paths", "samples", "imgs")):
        try:
            path = _path(column[place])
        except Exception:  # a column of a foreign class may raise anything
            path = None
        if path is not None:
            return str(path)
    return ""


def _label_rows(dataset: Any) -> Iterator[Callable[[int], Any]]:
    """Ways to the label of an image: columns that the data set has, and its `target_transform`."""
    for name, column in _columns(dataset, ("labels", "targets", "samples")):
        yield partial(_label, column, name == "samples", getattr(dataset, "target_transform", None))


def _label(column: Any, of_pairs: bool, change: Callable[[Any], Any] | None, place: int) -> Any:
    label = tuple(column[place])[1] if of_pairs else column[place]
    return label if change is None else change(label)


def label_of(dataset: Any, place: int) -> int:
    """The label of an image, without decoding it; -1 where the data set does not tell it.

    It is looked for in `labels`, `targets` and `samples`.
    """
    member = _member(dataset, place)
    if member:
        return label_of(*member) if _passes_on(dataset) else -1
    for label_at in _label_rows(dataset):
        try:
            number = whole(label_at(place))
        except Exception:  # a column or a target_transform of a foreign class may raise anything
            number = None
        if number is not None:
            return number
    return -1


def told_labels(dataset: Any) -> Tensor | None:
    """All labels `(n,)`, int64, as `label_of` tells them; None where no column tells any.

    `NO_LABEL` stands where the column has none.
    """
    if isinstance(dataset, Subset):
        told = told_labels(dataset.dataset) if _passes_on(dataset) else None
        return None if told is None else told[[int(dataset.indices[i]) for i in range(len(dataset))]]
    if isinstance(dataset, ConcatDataset):
        parts = [told_labels(part) for part in dataset.datasets] if _passes_on(dataset) else [None]
        return torch.cat(parts) if all(part is not None for part in parts) else None  # type: ignore[arg-type]
    for label_at in _label_rows(dataset):
        try:
            found = [whole(label_at(i)) for i in range(len(dataset))]
        except Exception:  # as in `label_of`
            continue
        if any(label is not None for label in found):
            return torch.tensor([NO_LABEL if label is None else label for label in found])
    return None
