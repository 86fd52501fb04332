"""`Decision`: from an OOD score to OOD or not."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DistributedSampler

from ants_lightning.common.settings import is_number, plain
from ants_lightning.data.batches import unpack_batch
from ants_lightning.data.pixels import check_pixels, in_words
from ants_lightning.method.counts import share_of
from ants_lightning.method.otsu import BINS, histogram, otsu_edge

if TYPE_CHECKING:
    from ants_lightning.detector import Detector

logger = logging.getLogger(__name__)

_CHUNK = 1024  # calibration images scored at a time


def decisive(scores: Mapping[str, Tensor]) -> Tensor:
    """The score that is decided on, of the scores by name: `ants`, else `neglabel`, else `mcm`."""
    return next(scores[name] for name in ("ants", "neglabel", "mcm") if name in scores)


def recall_threshold(scores: Tensor, recall: float) -> float:
    """The smallest t (of float64) with at least a share `recall` of the scores below it.

    It lies just above the score of the last image that must be accepted; all of the same score are accepted with that, so with ties
    the share may be larger than asked for.

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
    """`is_ood = o >= threshold`, of the score `decisive`.

    With `auto` the threshold is Otsu's cut of the scores that the images of the stream had, as they came: learnt at the sync points
    of `NegativeMemory`, 0.5 before. It splits any history in two, one with nothing but ID images too. With `{id_recall: r}` it
    accepts a share r of labelled ID images, those of the data module's `val_dataloader()` (negative labels are left out); they are
    encoded when the run starts, by every rank, and scored again whenever the spaces change.

    Args:
        threshold: a number in [0, 1], `auto`, `{"id_recall": r}` with r in (0, 1], or None: no decision. Else a ValueError.
    """

    def __init__(self, threshold: float | Literal["auto"] | Mapping[str, float] | None = None) -> None:
        threshold = plain(threshold)
        self.recall: float | None = None
        self.value: float | None = None  # the threshold now
        self.auto = isinstance(threshold, str) and threshold == "auto"
        if isinstance(threshold, Mapping) and set(threshold) == {"id_recall"} and _in_range(threshold["id_recall"]):
            self.recall = float(threshold["id_recall"])
        elif _in_range(threshold):
            self.value = float(threshold)  # type: ignore[arg-type]
        elif threshold is not None and not self.auto:
            raise ValueError(f"threshold must be a number in [0, 1], auto, or {{id_recall: r}} with r in (0, 1], got {threshold!r}")
        if self.recall == 0:
            raise ValueError("threshold: id_recall must be in (0, 1], got 0")
        self._features: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """A stream begins: no history."""
        self._counts, self._sums = (torch.zeros(BINS, dtype=torch.float64) for _ in range(2))
        if self.auto:
            self.value = 0.5

    def prepare(self, model: Detector, datamodule: L.LightningDataModule | None) -> None:
        """A run starts: encode the labelled ID images; ValueError where there are none, or nothing to learn `auto` from."""
        callbacks: list[Any] = model.trainer.callbacks  # type: ignore[attr-defined]
        if self.auto and not any(getattr(callback, "adapt", False) for callback in callbacks):
            raise ValueError("threshold: auto needs a NegativeMemory(adapt=True) to learn it; give a number or id_recall")
        if self.recall is not None:
            self._features = _calibration(model, datamodule)

    def learn(self, scores: Tensor) -> None:
        """Take the scores `(n,)` of images since the last sync point, in stream order; the same on every rank."""
        if self.auto and len(scores):
            counts, sums = histogram(scores)
            self._counts, self._sums = self._counts + counts, self._sums + sums
            self.value = otsu_edge(self._counts, self._sums)

    @torch.no_grad()
    def refresh(self, model: Detector) -> None:
        """The spaces have changed: score the labelled ID images anew."""
        if self._features is not None and self.recall is not None:
            parts = [decisive(model.score_spaces(part)["scores"]) for part in self._features.split(_CHUNK)]
            self.value = recall_threshold(torch.cat(parts), self.recall)

    def decide(self, scores: Tensor) -> Tensor | None:
        """`is_ood` `(n,)`, bool, of scores `(n,)`; None without a threshold."""
        return None if self.value is None else scores.double() >= self.value

    def state(self) -> dict[str, Any]:
        """What the next decision depends on; see `ANTS.state`."""
        return {"value": self.value, "counts": self._counts, "sums": self._sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state` told."""
        self.value, self._counts, self._sums = state["value"], state["counts"].cpu(), state["sums"].cpu()


def _in_range(x: Any) -> bool:
    return is_number(x) and 0 <= x <= 1


@torch.no_grad()
def _calibration(model: Detector, datamodule: L.LightningDataModule | None) -> Tensor:
    """Features `(n, d)` of the labelled ID images, n > 0, on the model's device."""
    parts, negative, lost = list[Tensor](), 0, 0
    for batch in _batches(model, datamodule):
        x, label, _ = unpack_batch(batch)
        if label is None:
            raise ValueError("threshold: id_recall needs labels in the batches of val_dataloader()")
        lost += len(batch.get("lost", ())) if isinstance(batch, Mapping) else 0
        negative += int((label < 0).sum())
        x = x[label >= 0]
        if len(x):
            features = x.float() if x.ndim == 2 else _encode(model, x)
            good = features.isfinite().all(1)
            lost += len(good) - int(good.sum())
            parts.append(features[good])
    n = sum(map(len, parts))
    logger.info("id_recall: %d labelled ID images (left out: %d with a negative label, %d lost)", n, negative, lost)
    if not n:
        raise ValueError(f"threshold: id_recall: no ID image in val_dataloader() ({negative} negative labels, {lost} lost)")
    return torch.cat(parts)


def _encode(model: Detector, images: Tensor) -> Tensor:
    """Features of images that are fit for the tower."""
    check_pixels(images, model.clip.visual)
    return in_words(model.encode, images, model.clip.visual)[0]


def _batches(model: Detector, datamodule: L.LightningDataModule | None) -> Iterator[Any]:
    """All batches of `val_dataloader()` on the model's device, the same on every rank, in the precision of the run."""
    if datamodule is None or not is_overridden("val_dataloader", datamodule, L.LightningDataModule):
        what = "there is no data module" if datamodule is None else f"{type(datamodule).__name__} has none"
        raise ValueError(f"threshold: id_recall needs a data module with a val_dataloader() of labelled ID images; {what}")
    trainer = model.trainer
    datamodule.setup("validate")
    loaders = CombinedLoader(datamodule.val_dataloader() or [], mode="sequential")
    for loader in loaders.flattened:
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise ValueError("threshold: id_recall needs all of val_dataloader() on every rank, it has a DistributedSampler")
    with trainer.precision_plugin.forward_context():
        for batch, _, place in loaders:
            batch = trainer.precision_plugin.convert_input(batch)
            yield trainer.strategy.batch_to_device(batch, model.device, place)
