"""Chunks: large products are computed some rows at a time, so that memory stays bounded."""

from torch import Tensor

_CHUNK = 8_000_000  # numbers at a time, 32 MB in float32


def split_rows(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Split `(n, …)` into parts for a computation that makes `width` numbers of each row.

    A part makes at most 8 million numbers, but has at least one row; without rows there is one empty part.

    >>> import torch
    >>> [len(part) for part in split_rows(torch.zeros(5), width=3_000_000)]
    [2, 2, 1]
    """
    return x.split(max(1, _CHUNK // max(1, width)))
