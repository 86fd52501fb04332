"""Otsu's cut of scores in two (N. Otsu, 1979): where the variance between the two sides is largest."""

import torch
from torch import Tensor

from ants_lightning.common.settings import check_shares
from ants_lightning.method.checks import check_scores

BINS = 1000


def between_variance(below: Tensor, sum_below: Tensor, total: Tensor) -> Tensor:
    """`n₀n₁(μ₀ - μ₁)²` of cuts: largest where the variance within the two sides is least (Otsu, 1979).

    Args:
        below: n₀, how many scores are below each of k cuts, `(k,)`, float64.
        sum_below: their sums, `(k,)`.
        total: number and sum of all scores, `(2,)`.

    Returns:
        `(k,)`; -1 where a side is empty.
    """
    above = total[0] - below  # n₁, (k,)
    apart = sum_below / below - (total[1] - sum_below) / above  # μ₀ - μ₁, (k,)
    return torch.where((below > 0) & (above > 0), below * above * apart**2, -1.0)


def _best_cut(between: Tensor) -> int | None:
    """The middle one of equally good cuts; None where no cut has scores on both sides."""
    if not len(between) or between.max() < 0:
        return None
    best = (between == between.max()).nonzero()[:, 0]
    return int(best[len(best) // 2])


def separation(id_scores: Tensor) -> float:
    """How clearly scores form two heaps: the largest share of variance that one cut explains (Otsu, 1979).

    A uniform history has 0.75, a normal one 2/π = 0.64, and one of two values 1. ValueError for scores that
    are NaN or outside [0, 1].

    Args:
        id_scores: S_nl, `(n,)` in [0, 1].

    Returns:
        In [0, 1]; 0 where all scores are alike or there are none.

    Example:
        >>> separation(torch.tensor([0.0, 0.25, 0.75, 1.0]))  # 0.140625 of the variance 0.15625
        0.9
    """
    check_scores("id_scores", id_scores)
    ordered = id_scores.double().sort().values
    if not len(ordered) or ordered[0] == ordered[-1]:
        return 0.0
    n, centred = len(ordered), ordered - ordered.mean()
    # A cut after each score but the last, (n - 1,).
    below = torch.arange(1, n, dtype=torch.float64, device=ordered.device)
    total = ordered.new_tensor([n, 0.0])  # the sum of centred scores is 0
    between = between_variance(below, centred.cumsum(0)[:-1], total)
    return float(between.max() / (n * (centred**2).sum()))


def shows_negatives(id_scores: Tensor, min_separation: float) -> bool:
    """Whether a history seems to hold OOD images: scores form two heaps, or their median is below 0.5.

    A guard of this package, in no paper. ValueError for scores or `min_separation` outside [0, 1].

    Args:
        id_scores: S_nl, `(n,)` in [0, 1].
        min_separation: the least `separation` that counts as two heaps, in [0, 1]. What ID images alone reach
            depends on the model and the classes, and has to be measured.

    Example:
        >>> high, low = torch.linspace(0.5, 1, 100), torch.linspace(0, 0.4, 100)
        >>> shows_negatives(high, 0.8), shows_negatives(low, 0.8)
        (False, True)
    """
    check_shares(min_separation=min_separation)
    separated = separation(id_scores) >= min_separation
    return separated or (len(id_scores) > 0 and float(id_scores.median()) < 0.5)


def histogram(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The histogram that `otsu_edge` cuts: number and sum of the scores in each bin `[k/BINS, (k+1)/BINS)`.

    Histograms of parts add up to that of the whole.

    Args:
        scores: `(n,)` in [0, 1]; 1 goes to the last bin.

    Returns:
        Counts and sums, each `(BINS,)`, float64, on the CPU.
    """
    scores = scores.double().cpu()
    edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bins = torch.bucketize(scores, edges, right=True)
    empty = torch.zeros(BINS, dtype=torch.float64)
    return empty.index_add(0, bins, torch.ones_like(scores)), empty.index_add(0, bins, scores)


def otsu_edge(counts: Tensor, sums: Tensor) -> float:
    """The edge of a `histogram` that cuts its scores into two sets of least variance within (Otsu, 1979).

    It is exact: a search among all edges with the scores themselves finds the same one, since only the number
    and the mean of the scores on each side matter.

    Args:
        counts: `(BINS,)`.
        sums: `(BINS,)`.

    Returns:
        The middle one of equally good edges; 0.5 where none has scores on both sides.

    Example:
        >>> otsu_edge(*histogram(torch.tensor([0.1055, 0.1255, 0.9055])))  # 0.126 to 0.905 are alike
        0.516
    """
    total = torch.stack([counts.sum(), sums.sum()])
    best = _best_cut(between_variance(counts.cumsum(0)[:-1], sums.cumsum(0)[:-1], total))
    return 0.5 if best is None else (best + 1) / BINS


def otsu_cut(scores: Tensor) -> float:
    """TANL's γ: of 0, 0.01, …, 0.99 the cut of scores into two sets of least variance within (Otsu, 1979).

    Args:
        scores: `(n,)` in [0, 1].

    Returns:
        The middle one of equally good cuts; 0.5 where no cut has scores on both sides.

    Example:
        >>> otsu_cut(torch.tensor([0.105, 0.125, 0.905]))  # 0.13 to 0.90 are alike
        0.52
    """
    ordered = scores.double().sort().values
    cuts = torch.arange(100, dtype=torch.float64, device=scores.device) / 100
    below = torch.searchsorted(ordered, cuts)  # how many scores are under each cut, (100,)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])  # of the lowest 0, 1, …, n scores, (n + 1,)
    total = torch.stack([ordered.new_tensor(len(ordered)), sums[-1]])
    best = _best_cut(between_variance(below.double(), sums[below], total))
    return 0.5 if best is None else best / 100
