"""Checks of tensors: no equation sees features or scores of a wrong shape or value."""

import torch
from torch import Tensor


def check_features(name: str, x: Tensor, dim: int | None = None, some: bool = False) -> None:
    """Raise a ValueError for anything but finite features `(n, d)`; it names the first bad row.

    Args:
        name: of the features, for the error.
        x: the features.
        dim: what d must be; None: anything.
        some: whether n must be larger than 0.
    """
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (n, d), got {tuple(x.shape)}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name} has {x.shape[1]} dimensions where {dim} were expected")
    if some and not len(x):
        raise ValueError(f"{name} is empty")
    finite = torch.isfinite(x).all(1)
    if not finite.all():
        raise ValueError(f"{name} has NaN or Inf in row {int((~finite).nonzero()[0])} of {len(x)}")


def check_scores(name: str, scores: Tensor) -> None:
    """Raise a ValueError for scores of any shape that are NaN or outside [0, 1]; it names the first."""
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        raise ValueError(f"{name} must lie in [0, 1], got {scores[bad][0].item()}")
