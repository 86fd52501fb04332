"""What ANTS mines: negative labels and negative images. Pure functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ants_lightning.common.settings import check_positive_shares, check_shares
from ants_lightning.method.checks import check_features, check_scores
from ants_lightning.method.chunks import split_rows
from ants_lightning.method.counts import count_of, share_of


def mine_negative_labels(
    candidate_text: Tensor, id_text: Tensor, keep: int | float, percentile: float = 0.95
) -> Tensor:
    """The candidates that are farthest from the ID classes (NegMining of NegLabel, Jiang et al., ICLR 2024).

    A candidate is as near as the `percentile` of its cosines with the class texts; the lowest are kept.
    ValueError for wrong shapes, NaN or Inf, empty input, `keep` or `percentile` out of range.

    Args:
        candidate_text: `(m, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        keep: a count ≥ 1 (int), or a share in (0, 1] (float), rounded up; never more than there are.
        percentile: in [0, 1].

    Returns:
        Indices of candidates, `(kept,)`, int64, farthest first; ties in the order of the candidates.
    """
    check_features("id_text", id_text, some=True)
    check_features("candidate_text", candidate_text, id_text.shape[1], some=True)
    check_shares(percentile=percentile)
    count = count_of(keep, len(candidate_text))
    parts = split_rows(candidate_text, width=len(id_text))
    cosines = (part.float() @ id_text.float().T for part in parts)  # (part, C) each
    nearness = torch.cat([_percentile(some, percentile) for some in cosines])  # (m,)
    return nearness.sort(stable=True).indices[:count]


def _percentile(x: Tensor, share: float) -> Tensor:
    """The quantile of each row of `(n, C)`, linearly interpolated, `(n,)`.

    Like `torch.quantile`, but without sorting whole rows.
    """
    if share < 0.5:
        return -_percentile(-x, 1 - share)
    place = share * (x.shape[1] - 1)
    largest = x.topk(x.shape[1] - math.floor(place), dim=1).values  # (n, k), largest first
    return largest[:, -1].lerp(largest[:, -2:][:, 0], place % 1)


def without_names(words: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Words, each once, without those that are ID class names when case is ignored (NegLabel's rule).

    Answers of an MLLM have to pass all rules of `adapt.hygiene` instead.

    >>> without_names(["gong", "Star", "gong", "sea"], ["star"])
    ['gong', 'sea']
    """
    known = {name.lower() for name in class_names}
    return [word for word in dict.fromkeys(words) if word.lower() not in known]


def mine_negative_images(id_scores: Tensor, gamma: float, eta: float) -> tuple[Tensor, float]:
    """The images of the history that look OOD (ANTS eq. 5 and 6).

    Candidates are the images with S < γ; the negative images are the share η of them with the lowest S; γ* is
    the largest S among those. ValueError for S that is no vector, NaN or outside [0, 1], or a γ or η that is
    out of range.

    Args:
        id_scores: S_nl of the history, `(n,)` in [0, 1], larger = more ID.
        gamma: γ in [0, 1].
        eta: η in (0, 1], the share of the candidates, rounded up.

    Returns:
        Indices of the negative images, `(k,)`, int64, lowest S first (ties: earliest first), and γ*. Without
        candidates the indices are empty and γ* is γ.

    Example:
        >>> mine_negative_images(torch.tensor([0.5, 0.99, 0.125, 0.8, 0.25]), gamma=0.75, eta=0.5)
        (tensor([2, 4]), 0.25)
    """
    if id_scores.ndim != 1:
        raise ValueError(f"id_scores must have shape (n,), got {tuple(id_scores.shape)}")
    check_scores("id_scores", id_scores)
    check_shares(gamma=gamma)
    check_positive_shares(eta=eta)
    count = share_of(eta, int((id_scores < gamma).sum()))
    if not count:
        return torch.empty(0, dtype=torch.long, device=id_scores.device), gamma
    values, indices = id_scores.sort(stable=True)
    return indices[:count], values[count - 1].item()


def histogram_gamma_star(id_scores: Tensor, eta: float) -> float:
    """γ* of the authors' code, in place of ANTS eq. 6: a percentile of the scores below a histogram's edge.

    The histogram has ten bins, 0.1 wide; the edge is the first between the two neighbours whose counts differ
    most; γ* is the η-percentile. ValueError for scores outside [0, 1] or η out of range.

    Args:
        id_scores: S_nl of the history, `(n,)` in [0, 1].
        eta: η in (0, 1].

    Returns:
        γ* (linear interpolation); the edge itself where no score is below it.

    Example:
        >>> round(histogram_gamma_star(torch.tensor([0.05, 0.15, 0.25, 0.95, 0.95, 0.95, 0.95]), eta=0.5), 6)
        0.15
    """
    check_scores("id_scores", id_scores)
    check_positive_shares(eta=eta)
    counts = torch.histc(id_scores.float(), bins=10, min=0, max=1)
    edge = (int(counts.diff().abs().argmax()) + 1) / 10
    below = id_scores[id_scores < edge].double()
    return float(below.quantile(eta)) if len(below) else edge
