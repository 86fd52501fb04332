"""V', the ID classes near the stream (ANTS eq. 10)."""

from torch import Tensor

from ants_lightning.method.checks import check_features
from ants_lightning.method.counts import share_of


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
        >>> import torch
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
