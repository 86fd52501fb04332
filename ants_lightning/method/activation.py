"""Which images are surely ID or OOD, and which negative texts they activate (AdaNeg and TANL)."""

import torch
from torch import Tensor

from ants_lightning.common.settings import check_counts
from ants_lightning.method.chunks import split_rows


def confident(id_scores: Tensor, gamma: float, gap: float) -> tuple[Tensor, Tensor]:
    """Which images are surely ID, `S ≥ γ + g(1-γ)`, and which are surely OOD, `S < γ - gγ`.

    AdaNeg (Zhang and Zhang, NeurIPS 2024) and TANL (Zhang et al., CVPR 2026, eq. 9) both select images so.

    Args:
        id_scores: S, `(n,)` in [0, 1], larger = more ID.
        gamma: γ in [0, 1].
        gap: g in [0, 1].

    Returns:
        Two masks `(n,)`; an image in between is False in both.

    Example:
        >>> [mask.tolist() for mask in confident(torch.tensor([0.2, 0.25, 0.5, 0.75]), gamma=0.5, gap=0.5)]
        [[False, False, False, True], [True, False, False, False]]
    """
    return id_scores >= gamma + gap * (1 - gamma), id_scores < gamma - gap * gamma


def mean_activation(features: Tensor, id_text: Tensor, corpus: Tensor, temperature: float = 0.01) -> Tensor:
    """How strongly images activate each label of a corpus (TANL eq. 5).

    It is the probability of the label in `softmax([v·t, v·n]/τ)`, averaged over the images.

    Args:
        features: v, `(k, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        corpus: n, `(N, d)`, L2-normalised.
        temperature: τ > 0.

    Returns:
        `(N,)`, float64; 0 without images.
    """
    texts = torch.cat([id_text, corpus]).float()  # (C + N, d)
    total = torch.zeros(len(corpus), dtype=torch.float64, device=corpus.device)
    for part in split_rows(features.float(), width=len(texts)):
        probabilities = (part @ texts.T / temperature).softmax(1)  # (part, C + N)
        total = total + probabilities[:, len(id_text) :].sum(0, dtype=torch.float64)  # (N,)
    return total / max(1, len(features))


def activated(activation: Tensor, count: int) -> Tensor:
    """The labels of largest activation (TANL eq. 6 and 8); all of them if there are fewer than `count`.

    ValueError for a count below 1, or an activation that is no vector.

    Args:
        activation: `Act(X_neg) - Act(X_pos)`, `(N,)`.
        count: M.

    Returns:
        Indices, `(min(M, N),)`, int64, largest first; ties in the order of the labels.

    Example:
        >>> activated(torch.tensor([0.1, 0.3, -0.2, 0.3]), count=3)
        tensor([1, 3, 0])
    """
    check_counts(count=count)
    if activation.ndim != 1:
        raise ValueError(f"activation must have shape (N,), got {tuple(activation.shape)}")
    return activation.sort(descending=True, stable=True).indices[:count]


def activation_aware_score(id_logits: Tensor, negative_logits: Tensor, step: int = 1) -> Tensor:
    """OOD score against ranked negatives, `o = 1 - S_aa` (TANL eq. 15).

    `o = mean_m sigmoid( lse_{j≤m}(negatives) - lse(ID) )`: the mean over m of the score against the first m
    negatives, so that negatives of higher rank weigh more.

    Args:
        id_logits: `(n, C)`.
        negative_logits: `(n, M)`, most activated first, M > 0.
        step: m = step, 2 step, …, M; 1 in the paper.

    Returns:
        `(n,)` in [0, 1], float64.

    Example:
        >>> activation_aware_score(torch.zeros(1, 1), torch.zeros(1, 2))  # the mean of 1/2 and 2/3
        tensor([0.5833], dtype=torch.float64)
    """
    check_counts(step=step)
    count = negative_logits.shape[1]
    if not count:
        raise ValueError("no negatives to score against")
    last = sorted({*range(step - 1, count, step), count - 1})  # places m - 1
    id_mass = id_logits.double().logsumexp(1, keepdim=True)  # (n, 1)
    negative_mass = negative_logits.double().logcumsumexp(1)[:, last]  # (n, number of m)
    return (negative_mass - id_mass).sigmoid().mean(1)
