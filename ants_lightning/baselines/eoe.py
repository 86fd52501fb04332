"""EOE: outlier labels that an LLM envisions for every ID class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ants_lightning.adapt.hygiene import Hygiene, fold
from ants_lightning.baselines.base import Baseline, Seen
from ants_lightning.common.settings import check_not_negative, check_positive
from ants_lightning.method.scores import mcm_from_logits

if TYPE_CHECKING:
    from ants_lightning.ants import ANTS


def eoe_score(id_logits: Tensor, outlier_logits: Tensor, beta: float = 0.25) -> Tensor:
    """EOE (Cao et al., ICML 2024, eq. 3): `o = 1 - max_{ID} p + β max_{outliers} p`, p the softmax over all K + L labels.

    Args:
        id_logits: `(n, K)`.
        outlier_logits: `(n, L)`; without labels it is MCM.
        beta: β ≥ 0.

    Returns:
        `(n,)` in [0, 1 + β], float64; `1 - p` is summed from the other labels.

    Example:
        >>> eoe_score(torch.zeros(1, 2), torch.zeros(1, 2))  # 1 - 1/4 + 1/4 · 1/4
        tensor([0.8125], dtype=torch.float64)
    """
    if not outlier_logits.shape[1]:
        return mcm_from_logits(id_logits)
    logits = torch.cat([id_logits, outlier_logits], 1).double()
    mass = (logits - logits.amax(1, keepdim=True)).exp()
    total = mass.sum(1)
    rest = mass.scatter(1, id_logits.argmax(1, keepdim=True), 0.0).sum(1)
    return (rest + beta * mass[:, id_logits.shape[1] :].amax(1)) / total


class EOE(Baseline):
    """EOE (Cao et al., "Envisioning Outlier Exposure by Large Language Models…", ICML 2024, arXiv 2406.00806).

    `o(v) = 1 - max_{i≤K} p_i(v) + β max_{i>K} p_i(v)`, `p = softmax(v·t/τ)` over the K ID classes and L labels: what the LLM names
    as similar to any ID class (VSNL with δ = 1), each once. Until it has answered there are no labels, and this is MCM; then they
    stay, for all streams. An ID name by `Hygiene` is dropped; the authors' code drops all labels that share a word with one.

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

    def prepare(self, model: ANTS) -> None:
        """No labels yet."""
        self.outlier_text = model.id_text[:0]

    def take_similar(self, model: ANTS, names: Mapping[str, Sequence[str]]) -> None:
        """Encode the answers, in the order of the classes, with the prompt of the ID classes."""
        hygiene = Hygiene(model.class_names, model.id_text, None)
        answers = [answer for name in model.class_names for answer in names.get(name, ())]
        labels: dict[str, str] = {}
        for answer in answers:
            if fold(answer) and not hygiene.is_id_name(answer):
                labels.setdefault(fold(answer), answer)
        texts = [model.hparams["id_prompt"].format(label) for label in labels.values()]
        self.outlier_text = model.encoder(texts) if texts else model.id_text[:0]

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64."""
        outliers = seen.features @ self.outlier_text.T
        return eoe_score(seen.id_cosine / self.temperature, outliers / self.temperature, self.beta)
