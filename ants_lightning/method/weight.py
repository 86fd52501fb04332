"""λ, the weight of the ENS score (ANTS eq. 14)."""

import torch
from torch import Tensor

from ants_lightning.method.checks import check_scores
from ants_lightning.method.scores import ood_score


def adaptive_weight(ood_ens: Tensor, ood_vsnl: Tensor) -> float:
    """The weight λ of the ENS score (ANTS eq. 14), from the scores of the negative images.

    `F(a, b) = (1-a) / ((1-a) + (1-b))` of the mean ID scores a and b, which in mean OOD scores is
    `λ = ō_ens / (ō_ens + ō_vsnl)`. ValueError for shapes that differ, and for scores that are NaN or outside
    [0, 1].

    Args:
        ood_ens: o_ens of the negative images, `(n,)` in [0, 1].
        ood_vsnl: o_vsnl of the same images, `(n,)`.

    Returns:
        λ in [0, 1]; 0.5 where there are no images, or where both means are 0.

    Example:
        >>> adaptive_weight(torch.tensor([0.5, 1.0]), torch.tensor([0.25, 0.25]))
        0.75
    """
    if ood_ens.shape != ood_vsnl.shape or ood_ens.ndim != 1:
        shapes = f"{tuple(ood_ens.shape)} and {tuple(ood_vsnl.shape)}"
        raise ValueError(f"two vectors of one length needed, got {shapes}")
    check_scores("ood_ens", ood_ens)
    check_scores("ood_vsnl", ood_vsnl)
    if not len(ood_ens):
        return 0.5
    ens, vsnl = ood_ens.double().mean().item(), ood_vsnl.double().mean().item()
    return ens / (ens + vsnl) if ens + vsnl > 0 else 0.5


def balanced_scores(
    image_features: Tensor, id_text: Tensor, ens: Tensor, vsnl: Tensor, temperature: float = 0.01
) -> Tensor:
    """The scores of the negative images from which the authors' code computes λ.

    It differs from ANTS eq. 14: a group has as many negatives as there are classes, and each VSNL label
    counts ten times. ValueError as of `ood_score`.

    Args:
        image_features: v, `(n, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        ens: texts of the ENS queue, `(m, d)`, L2-normalised, oldest first.
        vsnl: VSNL labels, `(k, d)`, L2-normalised.
        temperature: τ > 0.

    Returns:
        o_ens and o_vsnl, `(n, 2)` in [0, 1], float32.
    """
    columns = []
    for negatives in (ens, vsnl.repeat(10, 1)):
        num_groups = max(1, len(negatives) // len(id_text))
        columns.append(ood_score(image_features, id_text, negatives, temperature, num_groups))
    return torch.stack(columns, 1)  # (n, 2)
