"""`MemoryBank`: what a stream has shown so far: the negative-image memory bank and running sums."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.adapt.settings import Mining
from ants_lightning.method.counts import share_of
from ants_lightning.method.negatives import histogram_gamma_star, mine_negative_images
from ants_lightning.method.otsu import shows_negatives

Rows = dict[str, Tensor]  # columns side by side: one row an image
# Newest images that are looked at before a refresh: a change of the stream shows within some hundred.
RECENT = 1_000
HISTORY = 100_000  # S_nl kept; more than any benchmark's stream has, 0.4 MB

_SETTINGS = ("gamma", "eta", "bank_size")
_STATE = (
    "predicted",
    "gamma_star",
    "n_negative",
    "n_seen",
    "n_candidates",
    "history",
    "feature_sum",
    *_SETTINGS,
)


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of the parts, one after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def take(rows: Rows, which: Tensor) -> Rows:
    """Some of the rows."""
    return {name: column[which] for name, column in rows.items()}


class MemoryBank:
    """The history of one stream, on the CPU.

    After a gather it is the same on every rank. Its size is bounded.

    `history` keeps S_nl of the newest images, `predicted` how often each ID class was. The bank holds the
    candidates, S < γ, with these columns: `index`, place in the stream; `id_score`, S_nl; `prediction`, ID
    label; `owner`, the rank that had the image; `features` (n, d); `position`, place among all images seen;
    `described`, whether the MLLM has answered; `prequential` (n, 2), o_ens and o_vsnl from before the image's
    own sentence, NaN until scored.

    Args:
        dim: d of the features.
        mining: which images are candidates and which of them negative. With the rule `histogram` X_neg are
            all candidates: an image is one if its S was below the γ* of when it came.
        classes: C.
    """

    def __init__(self, dim: int, mining: Mining, classes: int = 0) -> None:
        self.gamma, self.eta = mining.gamma, mining.eta
        self.bank_size, self.rule = mining.bank_size, mining.rule
        self.predicted = torch.zeros(classes, dtype=torch.long)
        self.gamma_star, self.n_negative = mining.gamma, 0  # γ* and the size of X_neg
        self.n_seen, self.n_candidates = 0, 0
        self.history, self.feature_sum = torch.empty(0), torch.zeros(dim, dtype=torch.float64)
        self.rows: Rows = {}

    def add(self, rows: Rows) -> None:
        """Take images that follow those seen, in stream order: the first five columns of the bank."""
        score = rows["id_score"]
        new = (score < self.admitted_below).nonzero()[:, 0]
        self.n_candidates += len(new)
        if self.rows and len(self.rows["id_score"]) == self.bank_size:
            # Full: most images come too high, and nothing is copied for them.
            new = new[score[new] < self.rows["id_score"].max()]
        if len(new) or not self.rows:
            more = {
                **take(rows, new),
                "position": self.n_seen + new,
                "described": torch.zeros(len(new), dtype=torch.bool),
                "prequential": torch.full((len(new), 2), torch.nan),
            }
            bank = join([self.rows, more]) if self.rows else more
            self.rows = take(bank, bank["id_score"].sort(stable=True).indices[: self.bank_size].sort().values)
        self.history = torch.cat([self.history, score])[-HISTORY:]
        self.n_seen += len(score)
        self.feature_sum = self.feature_sum + rows["features"].double().sum(0)
        counts = torch.bincount(rows["prediction"], minlength=len(self.predicted))
        self.predicted = F.pad(self.predicted, (0, len(counts) - len(self.predicted))) + counts

    @property
    def admitted_below(self) -> float:
        """S below which an image is a candidate: γ, or γ* where the authors' rule moves it."""
        return self.gamma_star if self.rule == "histogram" else self.gamma

    def mine(self) -> Tensor:
        """Find X_neg and γ* anew in all images seen (eq. 5 and 6); returns rows of the bank, in stream order.

        Exact as long as the bank holds X_neg. Where X_neg is larger than the bank, all of the bank is
        returned, and γ* is that of the newest `HISTORY` images.
        """
        scores = self.rows["id_score"] if self.rows else torch.empty(0)
        if self.rule == "histogram":
            self.n_negative = len(scores)
            return torch.arange(len(scores))
        self.n_negative = share_of(self.eta, self.n_candidates)
        found = scores.sort(stable=True).indices[: self.n_negative]
        if self.n_negative > len(scores):
            self.gamma_star = mine_negative_images(self.history, self.gamma, self.eta)[1]
        else:
            self.gamma_star = scores[found[-1]].item() if len(found) else self.gamma
        return found.sort().values

    def move_gamma_star(self) -> None:
        """γ* of the authors' code, for the images that come from now on."""
        if self.rule == "histogram":
            self.gamma_star = histogram_gamma_star(self.history, self.eta)

    def shows_negatives(self, min_separation: float | None) -> bool:
        """Whether the newest `RECENT` images look as if OOD ones were among them; None: taken for granted."""
        return min_separation is None or shows_negatives(self.history[-RECENT:], min_separation)

    def set_described(self, rows: Tensor) -> None:
        """Note that the MLLM has answered on these rows of the bank."""
        self.rows["described"] = self.rows["described"].index_fill(0, rows, True)

    def set_prequential(self, rows: Tensor, scores: Tensor) -> None:
        """Keep `o_ens, o_vsnl` `(n, 2)` of rows of the bank, unless they have some already."""
        old = self.rows["prequential"]
        self.rows["prequential"] = old.index_copy(0, rows, torch.where(old[rows].isnan(), scores, old[rows]))

    def end_stream(self) -> None:
        """The next stream begins with this bank, but images of this one cannot be shown any more."""
        if self.rows:
            self.set_described(torch.arange(len(self.rows["index"])))

    @property
    def mean_feature(self) -> Tensor:
        """Mean image feature of all images seen, `(d,)`."""
        return (self.feature_sum / max(1, self.n_seen)).float()

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers."""
        return {**{name: getattr(self, name) for name in _STATE}, "rows": dict(self.rows)}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.rows = dict(state["rows"])
