"""`Evidence`: what a stream has shown so far, in bounded memory: the negative-image memory bank and running sums."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ants_lightning.mining import mine_negative_images


@dataclass
class Rows:
    """Images side by side: one row each, in stream order."""

    index: Tensor  # (n,) int64, place in the stream
    id_score: Tensor  # (n,) S_nl
    prediction: Tensor  # (n,) int64, ID label
    owner: Tensor  # (n,) int64, the rank that had the image
    features: Tensor  # (n, d)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def take(self, rows: Tensor) -> Rows:
        """Some of the images."""
        return Rows(**{f.name: getattr(self, f.name)[rows] for f in fields(Rows)})

    @staticmethod
    def join(parts: list[Rows]) -> Rows:
        """All images of the parts, sorted by their place in the stream."""
        joined = Rows(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Rows)))
        return joined.take(joined.index.argsort(stable=True))


@dataclass
class Evidence:
    """The history of one stream. All tensors lie on the CPU; after `gather` they are the same on every rank.

    `history` keeps one float32 an image; everything else is bounded.

    Args:
        dim: d of the features.
        gamma: γ at first: only images with S below it can be negative.
        eta: η, the share of the candidates that is taken.
        bank_size: how many candidates are kept with their features; of more, those of lowest S.
    """

    dim: int
    gamma: float = 0.9
    eta: float = 0.5
    bank_size: int = 10_000
    threshold: float = field(init=False)  # γ*
    history: Tensor = field(init=False)  # (images seen,) S_nl
    feature_sum: Tensor = field(init=False)  # (d,) float64
    bank: Rows = field(init=False)  # the candidates
    position: Tensor = field(init=False)  # (bank,) their places in the history
    described: Tensor = field(init=False)  # (bank,) bool: their sentences were asked for
    prequential: Tensor = field(init=False)  # (bank, 2) o_ens, o_vsnl before their own sentences; NaN until scored

    def __post_init__(self) -> None:
        self.threshold = self.gamma
        self.history, self.feature_sum = torch.empty(0), torch.zeros(self.dim, dtype=torch.float64)
        long = torch.empty(0, dtype=torch.long)
        self.bank = Rows(long, torch.empty(0), long, long, torch.empty(0, self.dim))
        self.position, self.described, self.prequential = long, long.bool(), torch.empty(0, 2)

    def add(self, rows: Rows) -> None:
        """Take images that follow those seen, in stream order."""
        start = len(self.history)
        self.history = torch.cat([self.history, rows.id_score])
        self.feature_sum = self.feature_sum + rows.features.double().sum(0)
        new = (rows.id_score < self.gamma).nonzero()[:, 0]
        joined = Rows(*(torch.cat([getattr(part, f.name) for part in (self.bank, rows.take(new))]) for f in fields(Rows)))
        lowest = joined.id_score.sort(stable=True).indices[: self.bank_size].sort().values
        self.bank = joined.take(lowest)
        self.position = torch.cat([self.position, start + new])[lowest]
        self.described = torch.cat([self.described, torch.zeros(len(new), dtype=torch.bool)])[lowest]
        self.prequential = torch.cat([self.prequential, torch.full((len(new), 2), torch.nan)])[lowest]

    def mine(self) -> Tensor:
        """Find X_neg and γ* anew in the whole history (eq. 5 and 6); returns rows of the bank, in stream order."""
        found, self.threshold = mine_negative_images(self.history, self.gamma, self.eta)
        return torch.isin(self.position, found).nonzero()[:, 0]

    @property
    def mean_feature(self) -> Tensor:
        """Mean image feature of all images seen, `(d,)`."""
        return (self.feature_sum / max(1, len(self.history))).float()

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "bank"}
        return {**state, "bank": {f.name: getattr(self.bank, f.name) for f in fields(Rows)}}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Evidence:
        """The evidence that `state_dict` described."""
        evidence = cls(*(state[name] for name in ("dim", "gamma", "eta", "bank_size")))
        for f in fields(cls):
            setattr(evidence, f.name, Rows(**state["bank"]) if f.name == "bank" else state[f.name])
        return evidence
