"""`Decision`: from an OOD score to OOD or not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ants_lightning.common.settings import is_share, plain
from ants_lightning.method.counts import share_of
from ants_lightning.method.otsu import BINS, histogram, otsu_edge
from ants_lightning.spaces.text_spaces import TextSpaces

_CHUNK = 1024  # calibration images scored at a time


def decisive(scores: Mapping[str, Tensor]) -> Tensor:
    """The score `(n,)` that is decided on: `ants` if there is one, else `neglabel`, else `mcm`."""
    return next(scores[name] for name in ("ants", "neglabel", "mcm") if name in scores)


def recall_threshold(scores: Tensor, recall: float) -> float:
    """The smallest t (float64) such that at least a share `recall` of the scores is below t.

    It lies just above the score of the last image that must be accepted. Images of equal score are all
    accepted, so with ties the share may be larger than asked for.

    Args:
        scores: OOD scores of ID images, `(n,)`, n > 0.
        recall: in (0, 1].

    Example:
        >>> round(recall_threshold(torch.tensor([0.5, 0.25, 0.75, 0.0]), 0.75), 12)
        0.5
    """
    last = scores.double().sort().values[share_of(recall, len(scores)) - 1]
    return math.nextafter(float(last), math.inf)


class Decision:
    """`is_ood = o >= threshold`, where o is the score `decisive`.

    With `auto` the threshold is Otsu's cut of the scores that images of the stream got when they came. It is
    0.5 until the first sync point of `NegativeMemory`, and is learnt at each. It cuts any history in two,
    even one of ID images alone. With `{id_recall: r}` the threshold accepts a share r of labelled ID images,
    those of the data module's `val_dataloader()`, which are scored again after each change of the spaces.

    Args:
        threshold: a number in [0, 1], `auto`, `{"id_recall": r}` with r in (0, 1], or None: no decision.
            ValueError for anything else.
    """

    def __init__(self, threshold: float | Literal["auto"] | Mapping[str, float] | None = None) -> None:
        given = plain(threshold)
        recall = given.get("id_recall") if isinstance(given, Mapping) and len(given) == 1 else None
        self.recall: float | None = None
        self.value: float | None = None  # the current threshold
        self.auto = isinstance(given, str) and given == "auto"
        self._calibration: Tensor | None = None  # features of the labelled ID images, (n, d)
        self._calibrated: Any = None  # version of the spaces that they were scored in
        if is_share(recall):
            self.recall = float(recall)
        elif is_share(given):
            self.value = float(given)
        elif given is not None and not self.auto:
            wanted = "a number in [0, 1], auto, or {id_recall: r} with r in (0, 1]"
            raise ValueError(f"threshold must be {wanted}, got {given!r}")
        if self.recall == 0:
            raise ValueError("threshold: id_recall must be in (0, 1], got 0")
        self.reset()

    def reset(self) -> None:
        """Begin a stream: forget its history."""
        self._counts = torch.zeros(BINS, dtype=torch.float64)
        self._sums = torch.zeros(BINS, dtype=torch.float64)
        if self.auto:
            self.value = 0.5

    def check(self, callbacks: Iterable[Any]) -> None:
        """Raise a ValueError for `auto` where no callback of the run adapts, as that one calls `learn`."""
        if self.auto and not any(getattr(callback, "adapt", False) for callback in callbacks):
            needed = "needs a NegativeMemory(adapt=True) to learn it"
            raise ValueError(f"threshold: auto {needed}; give a number or id_recall")

    def learn(self, scores: Tensor) -> None:
        """Take the scores `(n,)` since the last sync point, in stream order; they are equal on every rank."""
        if self.auto and len(scores):
            counts, sums = histogram(scores)
            self._counts, self._sums = self._counts + counts, self._sums + sums
            self.value = otsu_edge(self._counts, self._sums)

    def take_calibration(self, features: Tensor | None) -> None:
        """Begin a run with the features `(n, d)` of labelled ID images for `id_recall`, or with none."""
        self._calibration, self._calibrated = features, None

    @torch.no_grad()
    def calibrate(self, spaces: TextSpaces) -> None:
        """Find the threshold of `id_recall` in these spaces, unless they are those of the last time."""
        if self.recall is None or self._calibration is None or self._calibrated == spaces.version:
            return
        parts = [decisive(spaces(part)["scores"]) for part in self._calibration.split(_CHUNK)]
        self.value = recall_threshold(torch.cat(parts), self.recall)
        self._calibrated = spaces.version

    def decide(self, scores: Tensor) -> Tensor | None:
        """`is_ood`, `(n,)`, bool, of scores `(n,)`; None where there is no threshold."""
        return None if self.value is None else scores.double() >= self.value

    def state(self) -> dict[str, Any]:
        """What the next decisions depend on; see `ANTS.state`."""
        return {"value": self.value, "counts": self._counts, "sums": self._sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a `state`."""
        self.value, self._counts, self._sums = state["value"], state["counts"].cpu(), state["sums"].cpu()
