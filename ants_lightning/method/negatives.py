"""What ANTS mines: negative labels, negative images and similar classes. Pure functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ants_lightning.method.checks import check_features, check_scores
from ants_lightning.method.counts import count_of, share_of

_CHUNK = 8_000_000  # cosines at a time


def mine_negative_labels(candidate_text: Tensor, id_text: Tensor, keep: int | float, percentile: float = 0.95) -> Tensor:
    """The candidates that are farthest from the ID classes (NegMining of NegLabel, Jiang et al., ICLR 2024).

    A candidate's nearness is the `percentile` over classes of its cosine with the class texts; the lowest are kept.
    ValueError for wrong shapes, NaN or Inf, empty input, `keep` or `percentile` out of range.

    Args:
        candidate_text: `(m, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        keep: how many: a count ≥ 1 (int), or a share in (0, 1] (float), rounded up; never more than there are.
        percentile: in [0, 1].

    Returns:
        Indices of candidates, `(kept,)`, int64, farthest first; ties in the order of the candidates.
    """
    check_features("id_text", id_text, some=True)
    check_features("candidate_text", candidate_text, id_text.shape[1], some=True)
    if not 0 <= percentile <= 1:
        raise ValueError(f"percentile must lie in [0, 1], got {percentile}")
    count = count_of(keep, len(candidate_text))
    parts = candidate_text.split(max(1, _CHUNK // len(id_text)))
    nearness = torch.cat([_percentile(part.float() @ id_text.float().T, percentile) for part in parts])
    return nearness.sort(stable=True).indices[:count]


def _percentile(x: Tensor, share: float) -> Tensor:
    """The quantile of each row of `(n, C)` with linear interpolation, `(n,)`: `torch.quantile` without sorting the whole row."""
    if share < 0.5:
        return -_percentile(-x, 1 - share)
    place = share * (x.shape[1] - 1)
    largest = x.topk(x.shape[1] - math.floor(place), dim=1).values
    return largest[:, -1].lerp(largest[:, -2:][:, 0], place % 1)


def without_names(words: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Candidates, each once, that are no ID class name but for case: NegLabel's rule (an MLLM's answers get all of `Hygiene`).

    >>> without_names(["gong", "Star", "gong", "sea"], ["star"])
    ['gong', 'sea']
    """
    known = {name.lower() for name in class_names}
    return [word for word in dict.fromkeys(words) if word.lower() not in known]


def mine_negative_images(id_scores: Tensor, gamma: float, eta: float) -> tuple[Tensor, float]:
    """The images of the history that look OOD (ANTS eq. 5 and 6).

    Candidates have S < γ; the negative images are the lowest η of them; γ* is the largest S among those. ValueError for
    S outside [0, 1] (NaN too) or no vector, γ or η out of range.

    Args:
        id_scores: S_nl of the history, `(n,)` in [0, 1], larger = more ID.
        gamma: γ in [0, 1].
        eta: η in (0, 1], the share of the candidates, rounded up.

    Returns:
        Indices of the negative images, `(k,)`, int64, lowest S first (ties: earliest first), and γ*; with no candidate
        the indices are empty and γ* is γ.

    Example:
        >>> mine_negative_images(torch.tensor([0.5, 0.99, 0.125, 0.8, 0.25]), gamma=0.75, eta=0.5)
        (tensor([2, 4]), 0.25)
    """
    if id_scores.ndim != 1:
        raise ValueError(f"id_scores must have shape (n,), got {tuple(id_scores.shape)}")
    check_scores("id_scores", id_scores)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    count = share_of(eta, int((id_scores < gamma).sum()))
    if not count:
        return torch.empty(0, dtype=torch.long, device=id_scores.device), gamma
    values, indices = id_scores.sort(stable=True)
    return indices[:count], values[count - 1].item()


def histogram_threshold(id_scores: Tensor, eta: float) -> float:
    """γ* of the authors' code, in place of eq. 6: the η-percentile of the scores below an edge of their histogram.

    The edge is where the numbers of scores in two neighbouring bins, of ten 0.1 wide, differ most (the first such); ValueError
    for scores outside [0, 1] or η out of range.

    Args:
        id_scores: S_nl of the history, `(n,)` in [0, 1].
        eta: η in (0, 1].

    Returns:
        γ* (linear interpolation); the edge itself where no score is below it.

    Example:
        >>> round(histogram_threshold(torch.tensor([0.05, 0.15, 0.25, 0.95, 0.95, 0.95, 0.95]), eta=0.5), 6)
        0.15
    """
    check_scores("id_scores", id_scores)
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    counts = torch.histc(id_scores.float(), bins=10, min=0, max=1)
    edge = (int(counts.diff().abs().argmax()) + 1) / 10
    below = id_scores[id_scores < edge].double()
    return float(below.quantile(eta)) if len(below) else edge


