"""Otsu's cut of scores in two (1979)."""

import torch
from torch import Tensor

from ants_lightning.method.checks import check_scores

BINS = 1000


def separation(id_scores: Tensor) -> float:
    """How far the history falls into two heaps: the largest share of its variance that one cut explains (Otsu, 1979).

    A uniform history has 0.75, a normal one 2/π = 0.64, one of two values 1. ValueError for scores outside [0, 1] (NaN too).

    Args:
        id_scores: S_nl, `(n,)` in [0, 1].

    Returns:
        In [0, 1]; 0 where all scores are alike or there are none.

    Example:
        >>> separation(torch.tensor([0.0, 0.25, 0.75, 1.0]))  # variance 0.15625, of which 0.140625 between the halves
        0.9
    """
    check_scores("id_scores", id_scores)
    ordered = id_scores.double().sort().values
    if not len(ordered) or ordered[0] == ordered[-1]:
        return 0.0
    centred = ordered - ordered.mean()
    below = torch.arange(1, len(ordered), dtype=torch.float64, device=ordered.device)  # images under each cut
    between = centred.cumsum(0)[:-1] ** 2 * (1 / below + 1 / (len(ordered) - below))  # n₀μ₀² + n₁μ₁², as n₀μ₀ = -n₁μ₁
    return float(between.max() / (centred**2).sum())


def shows_negatives(id_scores: Tensor, min_separation: float) -> bool:
    """Whether a history looks as if it held OOD images: two heaps, or (median S_nl < 0.5) little else.

    Args:
        id_scores: S_nl, `(n,)` in [0, 1].
        min_separation: least `separation` of two heaps, in [0, 1]; what a history of nothing but ID images has is a property of the
            model and the classes, so it has to be measured on such a stream.

    Example:
        >>> shows_negatives(torch.linspace(0.5, 1, 100), 0.8), shows_negatives(torch.linspace(0, 0.4, 100), 0.8)
        (False, True)
    """
    if not 0 <= min_separation <= 1:
        raise ValueError(f"min_separation must lie in [0, 1], got {min_separation}")
    separated = separation(id_scores) >= min_separation
    return separated or (len(id_scores) > 0 and float(id_scores.median()) < 0.5)


def histogram(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores `(n,)` in [0, 1] are in each bin `[k/BINS, (k+1)/BINS)`, the last with 1, and their sums.

    Returns:
        Two `(BINS,)`, float64: the histograms of parts add up to that of the whole.
    """
    scores = scores.double().cpu()
    edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bins = torch.bucketize(scores, edges, right=True)
    empty = torch.zeros(BINS, dtype=torch.float64)
    return empty.index_add(0, bins, torch.ones_like(scores)), empty.index_add(0, bins, scores)


def otsu_edge(counts: Tensor, sums: Tensor) -> float:
    """The edge of a `histogram` that cuts its scores into two sets of least variance within (Otsu, 1979).

    The very cut that a search among all edges with all scores at hand finds, as only counts and means of the sides matter.

    Args:
        counts: `(BINS,)`.
        sums: `(BINS,)`.

    Returns:
        The middle one of equally good edges; 0.5 where none has scores on both sides.

    Example:
        >>> otsu_edge(*histogram(torch.tensor([0.1055, 0.1255, 0.9055])))  # 0.126 to 0.905 are alike
        0.516
    """
    n, total = counts.sum(), sums.sum()
    below, sum_below = counts.cumsum(0)[:-1], sums.cumsum(0)[:-1]
    above = n - below
    between = below * above * (sum_below / below - (total - sum_below) / above) ** 2
    between = torch.where((below > 0) & (above > 0), between, -1.0)
    if not len(between) or between.max() < 0:
        return 0.5
    best = (between == between.max()).nonzero()[:, 0]
    return (int(best[len(best) // 2]) + 1) / BINS
