"""`TextSpaces`: all texts that an image is compared with, and the scores against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.settings import Negatives
from ants_lightning.clip.vocabulary import Vocabulary
from ants_lightning.common.exact import ExactBuffers
from ants_lightning.common.settings import check_shares
from ants_lightning.method.activation import activation_aware_score
from ants_lightning.method.checks import check_features
from ants_lightning.method.negatives import mine_negative_labels
from ants_lightning.method.scores import margins, mcm_from_logits
from ants_lightning.spaces.text_space import TextSpace

_RANK_STEP = 2  # of eq. 15 of TANL, as in the code of ANTS' authors


class Cosines(NamedTuple):
    """Cosines of n images with the texts of each space, float32; negatives in the order of their groups."""

    id_text: Tensor  # (n, C)
    neglabel: Tensor  # (n, M)
    ens: Tensor  # (n, M'); where ENS is ranked, only the ranked sentences, most activated first
    vsnl: Tensor  # (n, K)


class Start(NamedTuple):
    """ENS, VSNL and λ of saved spaces, from which every stream starts."""

    ens: TextSpace
    vsnl: TextSpace
    lambda_: float
    ens_ranked: Tensor | None  # places in `ens`, (k,)
    answers: dict[str, list[str]]  # similar names by class


class TextSpaces(ExactBuffers):
    """The ID classes, the spaces NegLabel, ENS and VSNL, and λ, the weight of ENS beside VSNL (ANTS eq. 13).

    One matmul compares a batch with all texts, which are stacked anew only after a space has changed.

    Args:
        dim: d of the features.
        temperature: τ of all scores except MCM.
        mcm_temperature: τ of MCM, on cosines.
        num_groups: G of NegLabel and ENS.
        vsnl_groups: G of VSNL.
    """

    id_text: Tensor

    def __init__(
        self,
        dim: int,
        temperature: float = 0.01,
        mcm_temperature: float = 1.0,
        num_groups: int = 100,
        vsnl_groups: int = 1,
    ) -> None:
        super().__init__()
        self.temperature, self.mcm_temperature = temperature, mcm_temperature
        self.class_names: list[str] = []
        self.register_buffer("id_text", torch.empty(0, dim), persistent=False)
        self.neglabel, self.ens = TextSpace(dim, num_groups), TextSpace(dim, num_groups)
        self.vsnl = TextSpace(dim, vsnl_groups)
        self.lambda_ = 0.5
        self.start: Start | None = None
        self.adapted = True  # whether to score with ENS and VSNL
        self._ranked: tuple[int, Tensor] | None = None  # version of ENS, and places in it (k,)
        self._rankings = 0  # number of calls of `rank_ens`
        # Version of the texts, their features (texts, d), and how many are of each space.
        self._stacked: tuple[Any, Tensor, list[int]] = (None, torch.empty(0, dim), [])

    def set_classes(self, names: Sequence[str], id_text: Tensor) -> None:
        """Take the ID class names and their text features `(C, d)`, L2-normalised."""
        self.class_names, self.id_text = list(names), id_text
        self._stacked = (None, id_text[:0], [])

    def mine_neglabel(self, vocabulary: Vocabulary, settings: Negatives, encoder: TextEncoder) -> None:
        """Fill N_nl with the nouns and the adjectives that NegMining keeps (`method.negatives`)."""
        chosen = list[str]()
        for texts in vocabulary.without(self.class_names).texts():
            if texts:
                features = encoder(texts)  # (words, d)
                kept = mine_negative_labels(features, self.id_text, settings.keep, settings.percentile)
                chosen += [texts[place] for place in kept.tolist()]
        if chosen:
            self.neglabel.replace(chosen, encoder(chosen))

    def start_from(self, start: Start) -> None:
        """Let every stream start from these ENS, VSNL and λ."""
        self.start = start

    def switch_adapted(self, on: bool) -> None:
        """Whether to score with ENS and VSNL: no, where neither an MLLM nor saved spaces fill them."""
        self.adapted = on

    def reset(self) -> None:
        """Begin a stream: ENS, VSNL and λ become those of `start`; without it, empty and 0.5."""
        self.ens.clear()
        self.vsnl.clear()
        self.weigh(0.5)
        self.rank_ens(None)
        if self.start:
            self.ens.replace(self.start.ens.labels, self.start.ens.features)
            self.vsnl.replace(self.start.vsnl.labels, self.start.vsnl.features)
            self.weigh(self.start.lambda_)
            self.rank_ens(self.start.ens_ranked)

    def weigh(self, lambda_: float) -> None:
        """Set λ, in [0, 1]."""
        check_shares(**{"λ": lambda_})
        self.lambda_ = lambda_

    def rank_ens(self, places: Tensor | None) -> None:
        """Rank ENS: score it by TANL eq. 15 instead of ANTS eq. 8, until the queue changes.

        Args:
            places: of texts in the queue, `(k,)`, most activated first; None: no ranking, all texts by ANTS
                eq. 8.
        """
        self._ranked = None if places is None else (self.ens.version, places)
        self._rankings += 1

    @property
    def ens_ranked(self) -> Tensor | None:
        """The places of `rank_ens`, `(k,)`; None without a ranking, or if the queue has changed since."""
        return self._ranked[1] if self._ranked and self._ranked[0] == self.ens.version else None

    @property
    def version(self) -> tuple[Any, ...]:
        """A value that stays equal as long as the same image gets the same scores."""
        return self._texts_version(), self.lambda_, self.adapted

    def _texts_version(self) -> tuple[Any, ...]:
        versions = [space.version for space in (self.neglabel, self.ens, self.vsnl)]
        return (*versions, self._rankings, self.id_text.device)

    def score_names(self) -> list[str]:
        """The names of the scores, in the order of the table."""
        if not len(self.neglabel):
            return ["mcm"]
        if not self.adapted:
            return ["mcm", "neglabel"]
        return ["mcm", "neglabel", "ens", "vsnl", "ants"]

    def cosines(self, features: Tensor) -> Cosines:
        """Compare features `(n, d)`, L2-normalised, float32, with all texts, in one matmul."""
        self._stack()
        _, texts, sizes = self._stacked  # texts (C + M + M' + K, d)
        with torch.autocast(features.device.type, enabled=False):
            cosines = features @ texts.T  # (n, C + M + M' + K)
        return Cosines(*cosines.split(sizes, dim=1))

    def _stack(self) -> None:
        """Stack the texts of all spaces, if they have changed since the last time."""
        version = self._texts_version()
        if self._stacked[0] == version:
            return
        ranked = self.ens_ranked
        ens = self.ens.grouped() if ranked is None else self.ens.features[ranked]  # (M', d)
        parts = [self.id_text, self.neglabel.grouped(), ens, self.vsnl.grouped()]
        texts = torch.cat([part.to(self.id_text.device) for part in parts])  # (C + M + M' + K, d)
        self._stacked = (version, texts, [len(part) for part in parts])

    def score(self, cosines: Cosines) -> dict[str, Any]:
        """Score n images by MCM, NegLabel, ENS (ANTS eq. 8), VSNL (eq. 12) and ANTS (eq. 13).

        Returns:
            `prediction` `(n,)`, ID labels; `scores`, OOD scores `(n,)` by name, larger = more OOD;
            `id_score`, S_nl `(n,)` in [0, 1]. Without negative labels there is `mcm` alone and no `id_score`.
        """
        tau = self.temperature
        scores = {"mcm": mcm_from_logits(cosines.id_text / self.mcm_temperature)}  # (n,)
        out = {"prediction": cosines.id_text.argmax(1), "scores": scores}  # (n,)
        if not len(self.neglabel):
            return out
        id_logits = cosines.id_text / tau  # (n, C)
        odds = margins(id_logits, cosines.neglabel / tau, self.neglabel.num_groups)  # (n, G)
        out["id_score"] = (-odds).sigmoid().mean(1)  # (n,)
        scores["neglabel"] = odds.sigmoid().mean(1)  # (n,)
        if self.adapted:
            scores["ens"] = scores["vsnl"] = scores["neglabel"]  # as long as the space is empty
            if self.ens_ranked is not None:
                scores["ens"] = activation_aware_score(id_logits, cosines.ens / tau, _RANK_STEP).float()
            elif len(self.ens):
                odds = margins(id_logits, cosines.ens / tau, self.ens.num_groups)  # (n, G)
                scores["ens"] = odds.sigmoid().mean(1)  # (n,)
            if len(self.vsnl):
                odds = margins(id_logits, cosines.vsnl / tau, self.vsnl.num_groups)  # (n, G)
                scores["vsnl"] = odds.sigmoid().mean(1)  # (n,)
            scores["ants"] = self.lambda_ * scores["ens"] + (1 - self.lambda_) * scores["vsnl"]  # eq. 13
        return out

    def forward(self, features: Tensor) -> dict[str, Any]:
        """`score` of features `(n, d)`, L2-normalised; ValueError for NaN or Inf."""
        check_features("image_features", features)
        return self.score(self.cosines(features))

    def state(self) -> dict[str, Any]:
        """What a stream has changed so far; see `ANTS.state`."""
        return {
            "ens": [self.ens.labels, self.ens.features],
            "vsnl": [self.vsnl.labels, self.vsnl.features],
            "lambda": self.lambda_,
            "ens_ranked": self.ens_ranked,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a `state`."""
        self.ens.replace(*state["ens"])
        self.vsnl.replace(*state["vsnl"])
        self.weigh(state["lambda"])
        self.rank_ens(state["ens_ranked"])
