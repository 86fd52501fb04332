"""Shares and counts."""

import math


def count_of(keep: int | float, total: int) -> int:
    """A count (int ≥ 1), or a share (float in (0, 1]) of `total` rounded up, as a count of at most `total`."""
    if isinstance(keep, bool) or not (keep >= 1 if isinstance(keep, int) else 0 < keep <= 1):
        raise ValueError(f"keep must be a count of at least 1 or a share in (0, 1], got {keep!r}")
    return min(total, keep if isinstance(keep, int) else share_of(keep, total))


def share_of(share: float, total: int) -> int:
    """A share of `total`, rounded up; `0.07 * 100` is 7 here, not 7.000000000000001."""
    return max(math.ceil(share * total - 1e-9), 1 if total else 0)
