"""EOE: outlier labels that an LLM envisions for every ID class."""

from __future__ import annotations

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.common.settings import check_not_negative, check_positive
from ants_lightning.method.scores import mcm_from_logits


def eoe_score(id_logits: Tensor, outlier_logits: Tensor, beta: float = 0.25) -> Tensor:
    """EOE (Cao et al., ICML 2024, eq. 3): `o = 1 - max_{ID} p + β max_{outliers} p`.

    p is the softmax over all K + L labels; `1 - p` is summed from the other labels, so that it does not round
    to 0.

    Args:
        id_logits: `(n, K)`.
        outlier_logits: `(n, L)`; with L = 0 the score is MCM.
        beta: β ≥ 0.

    Returns:
        `(n,)` in [0, 1 + β], float64.

    Example:
        >>> eoe_score(torch.zeros(1, 2), torch.zeros(1, 2))  # 1 - 1/4 + 1/4 · 1/4
        tensor([0.8125], dtype=torch.float64)
    """
    if not outlier_logits.shape[1]:
        return mcm_from_logits(id_logits)
    logits = torch.cat([id_logits, outlier_logits], 1).double()  # (n, K + L)
    mass = (logits - logits.amax(1, keepdim=True)).exp()
    total = mass.sum(1)  # (n,)
    rest = mass.scatter(1, id_logits.argmax(1, keepdim=True), 0.0).sum(1)  # (n,)
    largest_outlier = mass[:, id_logits.shape[1] :].amax(1)  # (n,)
    return (rest + beta * largest_outlier) / total


class EOE(Baseline):
    """EOE (Cao et al., "Envisioning Outlier Exposure by Large…", ICML 2024, arXiv 2406.00806).

    `o(v) = 1 - max_{i≤K} p_i(v) + β max_{i>K} p_i(v)` with `p = softmax(v·t/τ)` over the K ID classes and L
    outlier labels. These are what the LLM names as similar to any ID class (VSNL with δ = 1), each once.
    Until it has answered there are none, and the score is MCM; then they stay, for all streams. Labels that
    `adapt.hygiene` takes for an ID name are dropped; the authors' code drops all labels that share a word
    with one.

    Args:
        beta: β ≥ 0.
        temperature: τ > 0, on cosines.
    """

    name = "eoe"
    asks_similar = True
    learned = ("outlier_text",)
    outlier_text: Tensor

    def __init__(self, beta: float = 0.25, temperature: float = 1.0) -> None:
        super().__init__()
        check_not_negative(beta=beta)
        check_positive(temperature=temperature)
        self.beta, self.temperature = beta, temperature
        self.hold("outlier_text")

    def prepare(self, inputs: DetectorInputs) -> None:
        """Begin without outlier labels."""
        self.outlier_text = inputs.id_text[:0]

    def take_similar(self, similar_text: Tensor) -> None:
        """Take the features of the outlier labels, `(L, d)`."""
        self.outlier_text = similar_text

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64."""
        outliers = seen.features @ self.outlier_text.T  # (n, L)
        return eoe_score(seen.id_cosine / self.temperature, outliers / self.temperature, self.beta)
