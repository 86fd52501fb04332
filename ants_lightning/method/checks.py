"""Refusals of what no equation can take: features and scores of wrong shape or value."""

import torch
from torch import Tensor


def check_features(name: str, x: Tensor, dim: int | None = None, some: bool = False) -> None:
    """Refuse anything but finite features `(n, d)`, d = `dim` where given, n > 0 with `some`; names the first bad row."""
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
    """Refuse scores outside [0, 1], NaN among them; the error names the first."""
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        raise ValueError(f"{name} must lie in [0, 1], got {scores[bad][0].item()}")
