"""Baselines that compare an image with the ID texts alone: max-logit, energy and GL-MCM."""

from __future__ import annotations

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.common.settings import check_not_negative, check_positive
from ants_lightning.method.chunks import split_rows
from ants_lightning.method.scores import mcm_from_logits


def max_logit_score(id_logits: Tensor) -> Tensor:
    """Max-logit (Hendrycks et al., ICML 2022): `o = -max_c f_c` of logits `(n, C)`, `(n,)`.

    >>> max_logit_score(torch.tensor([[1.0, 3.0], [2.0, -5.0]]))
    tensor([-3., -2.])
    """
    return -id_logits.amax(1)


def energy_score(id_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Energy (Liu et al., NeurIPS 2020): `o = -T log sum_c exp(f_c / T)` of logits `(n, C)`, `(n,)`, float64.

    >>> energy_score(torch.zeros(1, 8), temperature=2.0).exp().sqrt().round(decimals=3)
    tensor([0.1250], dtype=torch.float64)
    """
    return -temperature * (id_logits.double() / temperature).logsumexp(1)


def local_mcm_score(patches: Tensor, id_text: Tensor, temperature: float = 1.0) -> Tensor:
    """L-MCM (Miyai et al., IJCV 2025): `o = 1 - max_{p,c} softmax_c(v_p·t/τ)_c`, over the patches p.

    Args:
        patches: v, `(n, p, d)`, L2-normalised, p > 0.
        id_text: t, `(C, d)`, L2-normalised.
        temperature: τ > 0, on cosines.

    Returns:
        `(n,)` in [0, 1 - 1/C], float64.
    """
    best = []
    for part in split_rows(patches.float(), width=patches.shape[1] * len(id_text)):
        logits = part @ id_text.float().T / temperature  # (part, p, C)
        surest = (logits.amax(2) - logits.logsumexp(2)).argmax(1)  # the patch of largest probability, (part,)
        best.append(mcm_from_logits(logits[torch.arange(len(part), device=logits.device), surest]))
    return torch.cat(best)


class MaxLogit(Baseline):
    """Max-logit (Hendrycks et al., "Scaling Out-of-Distribution Detection…", ICML 2022).

    `o(v) = -max_c v·t_c/τ` with τ of the model, which does not change the order of images.
    """

    name = "max_logit"
    tau: float

    def prepare(self, inputs: DetectorInputs) -> None:
        """Take τ."""
        self.tau = inputs.temperature

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`."""
        return max_logit_score(seen.id_cosine / self.tau)


class Energy(Baseline):
    """Energy (Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020).

    `o(v) = -T log sum_c exp(f_c / T)` of CLIP's logits `f_c = v·t_c/τ`, with τ of the model.

    Args:
        temperature: T > 0.
    """

    name = "energy"
    tau: float

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def prepare(self, inputs: DetectorInputs) -> None:
        """Take τ."""
        self.tau = inputs.temperature

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64."""
        return energy_score(seen.id_cosine / self.tau, self.temperature)


class GLMCM(Baseline):
    """GL-MCM (Miyai et al., "Global and Local Maximum Concept Matching", IJCV 2025, arXiv 2304.04521).

    `o(v) = (1 - MCM(v)) + λ (1 - max_p MCM(v_p))` in [0, 1 + λ], over the patches p. Prompts are those of the
    model.

    Args:
        local_weight: λ ≥ 0; 1 in the authors' code.
        temperature: τ > 0, on cosines; 1 in the authors' code.
    """

    name = "gl_mcm"
    needs_patches = True
    id_text: Tensor

    def __init__(self, local_weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_not_negative(local_weight=local_weight)
        check_positive(temperature=temperature)
        self.local_weight, self.temperature = local_weight, temperature
        self.hold("id_text")

    def prepare(self, inputs: DetectorInputs) -> None:
        """Take the ID texts."""
        self.id_text = inputs.id_text

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64; ValueError without patch features."""
        if seen.patches is None:
            raise ValueError("gl_mcm needs patch features, and the image tower gave none")
        local = local_mcm_score(seen.patches, self.id_text, self.temperature)
        return mcm_from_logits(seen.id_cosine / self.temperature) + self.local_weight * local
