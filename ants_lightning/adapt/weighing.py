"""`Weighing`: λ over one stream, and its estimates (ANTS eq. 14)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ants_lightning.adapt.bank import MemoryBank
from ants_lightning.method.weight import adaptive_weight, balanced_scores
from ants_lightning.spaces.text_spaces import TextSpaces

_CHUNK = 1024  # images scored at a time


def scores_of(spaces: TextSpaces, bank: MemoryBank, rows: Tensor) -> Tensor:
    """`o_ens, o_vsnl` `(n, 2)` of rows of the bank in the present spaces.

    They are scored in chunks, since all at once may take gigabytes.
    """
    parts = []
    for some in rows.split(_CHUNK):
        scores = spaces(bank.rows["features"][some].to(spaces.id_text.device))["scores"]
        parts.append(torch.stack([scores["ens"], scores["vsnl"]], 1))
    return torch.cat(parts)


class Weighing:
    """The estimates of λ in one stream; the chosen one goes into the spaces.

    Args:
        rule: `paper`, `prequential` or `balanced`, see `NegativeMemory`.
        start: λ that the stream starts from.
    """

    def __init__(self, rule: str, start: float | None = None) -> None:
        self.rule = rule
        names = ("paper", "prequential") if start is None else ("paper", "prequential", rule)
        self.lambdas = dict.fromkeys(names, 0.5 if start is None else start)
        self.balanced = torch.zeros(2, dtype=torch.float64)  # sums of o_ens and o_vsnl over the stream

    def balance(self, spaces: TextSpaces, features: Tensor) -> None:
        """λ from the balanced scores of all images so far, with `(n, d)` more of them.

        An empty space scores as `neglabel`.
        """
        if self.rule != "balanced" or not len(spaces.neglabel):
            return
        features = features.to(spaces.id_text.device)
        neglabel = spaces(features)["scores"]["neglabel"]
        ens, vsnl = (
            space.features if len(space) else spaces.neglabel.features for space in (spaces.ens, spaces.vsnl)
        )
        scores = balanced_scores(features, spaces.id_text, ens, vsnl, spaces.temperature)  # (n, 2)
        empty = torch.tensor([not len(spaces.ens), not len(spaces.vsnl)], device=scores.device)
        self.balanced = self.balanced + torch.where(empty, neglabel[:, None], scores).double().sum(0).cpu()
        total = float(self.balanced.sum())
        self.lambdas = {**self.lambdas, "balanced": float(self.balanced[0]) / total if total else 0.5}
        spaces.weigh(self.lambdas["balanced"])

    def weigh(self, spaces: TextSpaces, bank: MemoryBank, negative: Tensor) -> None:
        """Both estimates of eq. 14 from X_neg.

        `paper` takes the scores in the present spaces, `prequential` those from before an image's own
        sentence entered.
        """
        if len(negative):
            pairs = bank.rows["prequential"][negative]
            self.lambdas = {
                **self.lambdas,
                "paper": adaptive_weight(*scores_of(spaces, bank, negative).unbind(1)),
                "prequential": adaptive_weight(*pairs[~pairs.isnan().any(1)].unbind(1)),
            }
        spaces.weigh(self.lambdas.get(self.rule, 0.5))

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {"lambdas": self.lambdas, "balanced": self.balanced}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told."""
        self.lambdas, self.balanced = state["lambdas"], state["balanced"]
