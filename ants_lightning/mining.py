"""What ANTS mines: negative labels, negative images and similar classes. Pure functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ants_lightning.scoring import check_features, check_scores

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


def count_of(keep: int | float, total: int) -> int:
    """A count (int ≥ 1), or a share (float in (0, 1]) of `total` rounded up, as a count of at most `total`."""
    if isinstance(keep, bool) or not (keep >= 1 if isinstance(keep, int) else 0 < keep <= 1):
        raise ValueError(f"keep must be a count of at least 1 or a share in (0, 1], got {keep!r}")
    return min(total, keep if isinstance(keep, int) else share_of(keep, total))


def share_of(share: float, total: int) -> int:
    """A share of `total`, rounded up; `0.07 * 100` is 7 here, not 7.000000000000001."""
    return max(math.ceil(share * total - 1e-9), 1 if total else 0)


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


def similar_classes(mean_image_feature: Tensor, id_text: Tensor, ratio: float) -> Tensor:
    """The ID classes closest to the stream (ANTS eq. 10): V', the ⌈δC⌉ of largest mean cosine with the images seen.

    ValueError for wrong shapes, NaN or Inf, no classes, or δ out of range.

    Args:
        mean_image_feature: mean of the image features seen, `(d,)`, not normalised again.
        id_text: t, `(C, d)`, L2-normalised.
        ratio: δ in (0, 1].

    Returns:
        Class indices, `(⌈δC⌉,)`, int64, closest first.

    Example:
        >>> similar_classes(torch.tensor([0.1, 0.7, 0.3]), torch.eye(3), ratio=0.5)
        tensor([1, 2])
    """
    check_features("id_text", id_text, some=True)
    check_features("mean_image_feature", mean_image_feature[None], id_text.shape[1])
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], got {ratio}")
    near = id_text.float() @ mean_image_feature.float()
    return near.sort(descending=True, stable=True).indices[: share_of(ratio, len(id_text))]


def frequent_classes(counts: Tensor, ratio: float) -> Tensor:
    """The ID classes predicted most often, in place of eq. 10: V' of the authors' code (40 of 1,000 classes: δ = 0.04).

    Args:
        counts: how often each class was predicted, `(C,)`.
        ratio: δ in (0, 1].

    Returns:
        Class indices, at most `⌈δC⌉`, int64, most frequent first; those never predicted are left out.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], got {ratio}")
    found = counts.sort(descending=True, stable=True).indices[: share_of(ratio, len(counts))]
    return found[counts[found] > 0]


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
