"""The scores of ANTS: pure functions of L2-normalised features.

Every score is an *OOD score* in [0, 1], larger = more OOD. Sums run in float32 and in log space, because
`1 - S` in float32 would round everything above 0.9999999 to one number.
"""

import torch
from torch import Tensor

from ants_lightning.common.settings import check_counts, check_positive
from ants_lightning.method.checks import check_features


def group_order(n: int, num_groups: int) -> Tensor:
    """The order `(n,)` in which n negatives are cut into G runs: NegLabel's random groups, from a fixed seed.

    The first `n % G` runs are one longer than the others; with G > n there are n runs. ValueError for G < 1.
    """
    check_counts(num_groups=num_groups)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def grouped_logsumexp(logits: Tensor, num_groups: int) -> Tensor:
    """Log-sum-exp over each group of negatives (the inner sum of NegLabel's score, Jiang et al., ICLR 2024).

    Args:
        logits: `(n, m)`, columns in `group_order`, m > 0.
        num_groups: G ≥ 1.

    Returns:
        `(n, min(G, m))`, float32.
    """
    n, m = logits.shape
    groups = min(num_groups, m)
    size, longer = divmod(m, groups)  # the first `longer` groups have `size + 1` columns
    head, tail = logits.float().split([longer * (size + 1), m - longer * (size + 1)], dim=1)
    parts = [head.reshape(n, longer, size + 1)] if longer else []
    parts.append(tail.reshape(n, groups - longer, size))
    return torch.cat([part.logsumexp(2) for part in parts], dim=1)  # (n, groups)


def margins(id_logits: Tensor, negative_logits: Tensor, num_groups: int) -> Tensor:
    """`lse(N_g) - lse(ID)` for each group g: the log odds of "negative" against "ID" (in ANTS eq. 8 and 12).

    `sigmoid(margins).mean(1)` is the OOD score o, `sigmoid(-margins).mean(1)` the ID score S. Each is exact
    where the other rounds to 1.

    Args:
        id_logits: cosines with the ID texts over τ, `(n, C)`.
        negative_logits: cosines with negatives in `group_order` over τ, `(n, m)`, m > 0.
        num_groups: G ≥ 1.

    Returns:
        `(n, min(G, m))`, float32.
    """
    id_mass = id_logits.float().logsumexp(1, keepdim=True)  # (n, 1)
    return grouped_logsumexp(negative_logits, num_groups) - id_mass  # (n, groups)


def ood_score(
    image_features: Tensor,
    id_text: Tensor,
    negative_text: Tensor,
    temperature: float = 0.01,
    num_groups: int = 1,
) -> Tensor:
    """OOD score against a negative space (NegLabel, Jiang et al., ICLR 2024; ANTS eq. 8 and 12).

    `o(v) = mean_g sigmoid( lse_{n in N_g}(v·n/τ) - lse_c(v·t_c/τ) ) = 1 - S(v)`. ValueError for wrong shapes,
    NaN or Inf, no texts, and τ or G out of range.

    Args:
        image_features: v, `(n, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        negative_text: N, `(m, d)`, L2-normalised.
        temperature: τ > 0.
        num_groups: G ≥ 1, see `group_order`.

    Returns:
        `(n,)` in [0, 1], float32, larger = more OOD.

    Example:
        >>> eye = torch.eye(3)
        >>> ood_score(eye, eye[:1], eye[1:2], temperature=1.0).round(decimals=3)
        tensor([0.2690, 0.7310, 0.5000])
    """
    _check(image_features, id_text, temperature)
    check_features("negative_text", negative_text, id_text.shape[1], some=True)
    order = group_order(len(negative_text), num_groups).to(negative_text.device)  # (m,)
    with torch.autocast(image_features.device.type, enabled=False):
        v = image_features.float() / temperature  # (n, d)
        id_logits = v @ id_text.float().T  # (n, C)
        negative_logits = v @ negative_text.float()[order].T  # (n, m)
        return margins(id_logits, negative_logits, num_groups).sigmoid().mean(1)  # (n,)


def mcm_score(image_features: Tensor, id_text: Tensor, temperature: float = 1.0) -> Tensor:
    """Maximum concept matching (MCM, Ming et al., NeurIPS 2022): `o(v) = 1 - max_c softmax(v·t/τ)_c`.

    ValueError as of `ood_score`.

    Args:
        image_features: v, `(n, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        temperature: τ > 0, on cosines.

    Returns:
        `(n,)` in [0, 1 - 1/C], float64, larger = more OOD.

    Example:
        >>> mcm_score(torch.eye(2)[:1], torch.eye(2)).float().round(decimals=3)
        tensor([0.2690])
    """
    _check(image_features, id_text, temperature)
    with torch.autocast(image_features.device.type, enabled=False):
        return mcm_from_logits(image_features.float() @ id_text.float().T / temperature)


def mcm_from_logits(id_logits: Tensor) -> Tensor:
    """MCM (Ming et al., NeurIPS 2022) of logits `(n, C)`: `1 - max softmax`, `(n,)`, float64.

    It is summed from the classes that are not the largest: with 1,000 classes at τ = 1 it lies just below 1,
    where float32 would make ties.
    """
    top = id_logits.max(1, keepdim=True)  # values and indices, (n, 1)
    mass = (id_logits.double() - top.values).exp()  # of each class, relative to the largest, (n, C)
    rest = mass.scatter(1, top.indices, 0.0).sum(1)  # (n,)
    return rest / (1 + rest)


def _check(image_features: Tensor, id_text: Tensor, temperature: float) -> None:
    check_features("id_text", id_text, some=True)
    check_features("image_features", image_features, id_text.shape[1])
    check_positive(temperature=temperature)
