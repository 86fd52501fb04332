"""V', the ID classes near the stream (ANTS eq. 10)."""

from torch import Tensor

from ants_lightning.common.settings import check_positive_shares
from ants_lightning.method.checks import check_features
from ants_lightning.method.counts import share_of


def near_classes(mean_image_feature: Tensor, id_text: Tensor, ratio: float) -> Tensor:
    """V', the ID classes closest to the stream (ANTS eq. 10).

    They are the ⌈δC⌉ classes of largest mean cosine with the images seen. ValueError for wrong shapes, NaN or
    Inf, no classes, or δ out of range.

    Args:
        mean_image_feature: mean of the image features seen, `(d,)`, not normalised again.
        id_text: t, `(C, d)`, L2-normalised.
        ratio: δ in (0, 1].

    Returns:
        Class indices, `(⌈δC⌉,)`, int64, closest first.

    Example:
        >>> import torch
        >>> near_classes(torch.tensor([0.1, 0.7, 0.3]), torch.eye(3), ratio=0.5)
        tensor([1, 2])
    """
    check_features("id_text", id_text, some=True)
    check_features("mean_image_feature", mean_image_feature[None], id_text.shape[1])
    check_positive_shares(ratio=ratio)
    near = id_text.float() @ mean_image_feature.float()  # (C,)
    return near.sort(descending=True, stable=True).indices[: share_of(ratio, len(id_text))]


def frequent_classes(counts: Tensor, ratio: float) -> Tensor:
    """V' of the authors' code, in place of ANTS eq. 10: the ID classes predicted most often.

    They take 40 of 1,000 classes, δ = 0.04. ValueError for δ out of range.

    Args:
        counts: how often each class was predicted, `(C,)`.
        ratio: δ in (0, 1].

    Returns:
        Class indices, at most `⌈δC⌉`, int64, most frequent first; classes never predicted are left out.
    """
    check_positive_shares(ratio=ratio)
    found = counts.sort(descending=True, stable=True).indices[: share_of(ratio, len(counts))]
    return found[counts[found] > 0]
