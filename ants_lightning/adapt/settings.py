"""The settings of `NegativeMemory`, in groups: mining, the negative spaces, sync points, label hygiene."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ants_lightning.common.groups import SettingsGroup
from ants_lightning.common.settings import (
    check_choice,
    check_cosines,
    check_flags,
    check_positive_shares,
    check_shares,
    check_whole,
    plain_path,
)


@dataclass(frozen=True)
class Mining(SettingsGroup):
    """Which images of the stream count as negative.

    Args:
        gamma: γ at first, in [0, 1]: an image whose S_nl is below γ is a candidate (eq. 5).
        eta: η, in (0, 1]: the share of the candidates that counts as negative (eq. 6).
        rule: how γ* is found: by eq. 6 (`paper`), or as in the authors' code (`histogram`, see
            `method.negatives.histogram_gamma_star`).
        bank_size: how many candidates are kept with their features.
    """

    gamma: float = 0.9
    eta: float = 0.5
    rule: Literal["paper", "histogram"] = "paper"
    bank_size: int = 10_000

    def check(self) -> None:
        """Each setting is in range."""
        check_shares(**{"mining.gamma": self.gamma})
        check_positive_shares(**{"mining.eta": self.eta})
        check_choice(("paper", "histogram"), **{"mining.rule": self.rule})
        check_whole(1, **{"mining.bank_size": self.bank_size})


@dataclass(frozen=True)
class ENS(SettingsGroup):
    """The expressive negative sentences: a queue of texts that describe negative images (eq. 7).

    Args:
        size: M, how many sentences the queue holds.
        init: the queue starts with the negative labels N_nl (`neglabel`), or with nothing (`empty`). While it
            is empty, the score `ens` is `neglabel`.
        activated: None scores by eq. 8, against all sentences. A number k scores as TANL does
            (`method.activation.activation_aware_score`), against k sentences: those that the surely-OOD
            images since the last sync point activate most, and the surely-ID images least. The authors' code
            has k = 1,000.
    """

    size: int = 10_000
    init: Literal["neglabel", "empty"] = "neglabel"
    activated: int | None = None

    def check(self) -> None:
        """Each setting is in range."""
        check_whole(1, **{"ens.size": self.size})
        check_choice(("neglabel", "empty"), **{"ens.init": self.init})
        if self.activated is not None:
            check_whole(1, **{"ens.activated": self.activated})


@dataclass(frozen=True)
class VSNL(SettingsGroup):
    """The visually similar negative labels: names of classes that look like some ID classes (eq. 10, 11).

    Args:
        delta: δ, in (0, 1]: the share of the ID classes that the MLLM is asked about (eq. 10).
        choose: which ID classes these are: those nearest to the mean image of the stream (`mean`, eq. 10), or
            those predicted most often (`frequent`, as in the authors' code).
        names: how many similar class names are asked for, for each ID class (eq. 11).
        show_images: also show the MLLM an image for each ID class: among the negative images predicted as
            this class, the one with the lowest S_nl.
    """

    delta: float = 0.08
    choose: Literal["mean", "frequent"] = "mean"
    names: int = 5
    show_images: bool = False

    def check(self) -> None:
        """Each setting is in range."""
        check_positive_shares(**{"vsnl.delta": self.delta})
        check_choice(("mean", "frequent"), **{"vsnl.choose": self.choose})
        check_whole(1, **{"vsnl.names": self.names})
        check_flags(**{"vsnl.show_images": self.show_images})


@dataclass(frozen=True)
class Schedule(SettingsGroup):
    """When the memory learns from the stream.

    Args:
        every: batches from one sync point to the next.
        min_images: there is no refresh before this many images of the stream were seen.
        min_candidates: images are described only when more than this many negative images wait for it.
        max_refreshes: how many refreshes of a stream describe images; None: all do.
        min_separation: a guard, in [0, 1]: there is no refresh while the newest 1,000 images look like
            nothing but ID (`method.otsu.shows_negatives`). Its best value depends on the model and the
            classes, see docs/imbalance.md. None: no guard.
        score_after_refresh: score the batch of a sync point once more after the refresh, as the authors' code
            does. False: each batch is scored with what earlier batches taught.
    """

    every: int = 10
    min_images: int = 200
    min_candidates: int = 0
    max_refreshes: int | None = None
    min_separation: float | None = None
    score_after_refresh: bool = False

    def check(self) -> None:
        """Each setting is in range."""
        check_whole(1, **{"schedule.every": self.every})
        check_whole(
            0, **{"schedule.min_images": self.min_images, "schedule.min_candidates": self.min_candidates}
        )
        if self.max_refreshes is not None:
            check_whole(0, **{"schedule.max_refreshes": self.max_refreshes})
        if self.min_separation is not None:
            check_shares(**{"schedule.min_separation": self.min_separation})
        check_flags(**{"schedule.score_after_refresh": self.score_after_refresh})


@dataclass(frozen=True)
class HygieneSettings(SettingsGroup):
    """Which answers of the MLLM are dropped because they speak of an ID class.

    Args:
        names: drop answers that are the name of an ID class, whatever their case, plural, hyphens or WordNet
            synonym.
        max_id_similarity: drop answers whose text has a larger cosine than this with an ID class. With CLIP
            ViT-B/32, 0.95 drops 85 % of other lists' names of ImageNet classes and 5 % of their other names
            (`tests/benchmarks/hygiene.py`). None: drop no answer by its cosine.
    """

    names: bool = True
    max_id_similarity: float | None = 0.95

    def check(self) -> None:
        """Each setting is in range."""
        check_flags(**{"hygiene.names": self.names})
        if self.max_id_similarity is not None:
            check_cosines(**{"hygiene.max_id_similarity": self.max_id_similarity})


@dataclass(frozen=True)
class MemorySettings(SettingsGroup):
    """All settings of `NegativeMemory`, which documents them."""

    mining: Mining = field(default_factory=Mining)
    ens: ENS = field(default_factory=ENS)
    vsnl: VSNL = field(default_factory=VSNL)
    schedule: Schedule = field(default_factory=Schedule)
    hygiene: HygieneSettings = field(default_factory=HygieneSettings)
    weight: Literal["paper", "prequential", "balanced"] = "prequential"
    persist: bool = False
    on_failure: Literal["check", "continue", "raise"] = "check"
    record: str | None = "mllm.jsonl"
    adapt: bool = True

    def check(self) -> None:
        """Each setting is in range."""
        check_choice(("paper", "prequential", "balanced"), weight=self.weight)
        check_choice(("check", "continue", "raise"), on_failure=self.on_failure)
        check_flags(persist=self.persist, adapt=self.adapt)
        object.__setattr__(self, "record", plain_path(self.record))


# The settings that are groups
GROUPS: dict[str, type[SettingsGroup]] = {
    "mining": Mining,
    "ens": ENS,
    "vsnl": VSNL,
    "schedule": Schedule,
    "hygiene": HygieneSettings,
}
