"""Shares of a number of things as counts: a share is rounded up, as ⌈δC⌉ in ANTS eq. 10."""

import math
from typing import Any


def check_keep(name: str, keep: Any) -> None:
    """Raise a ValueError, with this name, unless `keep` is a count (int ≥ 1) or a share (float in (0, 1])."""
    is_count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    is_share = isinstance(keep, float) and 0 < keep <= 1
    if not (is_count or is_share):
        raise ValueError(f"{name} must be a count of at least 1 or a share in (0, 1], got {keep!r}")


def count_of(keep: int | float, total: int) -> int:
    """How many of `total` things to keep.

    Args:
        keep: a count (int ≥ 1), or a share (float in (0, 1]), which is rounded up; else a ValueError.
        total: how many there are, and the most that is returned.

    Example:
        >>> count_of(0.5, 7), count_of(5, 7), count_of(9, 7)
        (4, 5, 7)
    """
    check_keep("keep", keep)
    return min(total, keep if isinstance(keep, int) else share_of(keep, total))


def share_of(share: float, total: int) -> int:
    """A share in (0, 1] of `total`, rounded up; at least 1 unless `total` is 0.

    What rounding adds to a product does not count: `0.07 * 100` is 7.000000000000001.

    >>> share_of(0.07, 100), share_of(0.5, 7), share_of(0.5, 0)
    (7, 4, 0)
    """
    least = 1 if total else 0
    return max(math.ceil(share * total - 1e-9), least)
