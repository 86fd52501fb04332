"""`StreamSteps`: what a detector does with the batches of a stream, in a test and a prediction."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from ants_lightning.baselines.columns import Baselines
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.pixels import check_pixels, in_words
from ants_lightning.data.batches import Batch, stream_loaders
from ants_lightning.data.calibration import calibration_features
from ants_lightning.decide.threshold import Decision, decisive
from ants_lightning.evaluation import Evaluation
from ants_lightning.health import Fault
from ants_lightning.spaces.text_spaces import TextSpaces

logger = logging.getLogger(__name__)

_STATEFUL = ("spaces", "decision", "evaluation", "baselines")  # what changes while a stream runs


class StreamSteps(L.LightningModule):
    """The test and prediction steps of a detector, which are inference only.

    A subclass has the towers, texts and scores. Every image is scored once, those that cannot be scored are
    left out, counted and reported, and metrics are logged by stream.
    """

    clip: Any  # of open_clip
    encoder: TextEncoder
    class_names: list[str]
    spaces: TextSpaces
    baselines: Baselines
    decision: Decision

    def __init__(self) -> None:
        super().__init__()
        self.evaluation = Evaluation()
        self._skip: list[int] = []  # batches of each loader that an interrupted run has done

    def prepare(self) -> None:
        """Begin a run."""
        raise NotImplementedError

    def score_names(self) -> list[str]:
        """The columns of the table, in order."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `(n, d)` and patch features `(n, p, d)` or None of preprocessed images `(n, 3, h, w)`."""
        raise NotImplementedError

    def _score(self, features: Tensor, patches: Tensor | None) -> dict[str, Any]:
        """What `ANTS.forward` returns, from features that are finite."""
        raise NotImplementedError

    @property
    def threshold(self) -> float | None:
        """The OOD score from which on an image is called OOD in the present spaces; None: undecided."""
        self.decision.calibrate(self.spaces)
        return self.decision.value

    def decide(self, found: dict[str, Any]) -> dict[str, Any]:
        """What `score` gives, with `lambda`, `threshold` and `is_ood` of now."""
        threshold = self.threshold
        is_ood = self.decision.decide(decisive(found["scores"]))
        return {**found, "lambda": self.spaces.lambda_, "threshold": threshold, "is_ood": is_ood}

    def resume_at(self, position: Sequence[int]) -> None:
        """Leave out this many batches of each loader in the next run: an interrupted run has done them."""
        self._skip = list(position)

    def on_test_start(self) -> None:
        """Make the spaces, and begin to evaluate the streams."""
        self.prepare()
        trainer: Any = self.trainer
        groups = getattr(trainer.datamodule, "groups", None)
        ranks = trainer.world_size, trainer.global_rank
        self.evaluation = Evaluation(stream_loaders(trainer), groups, self.score_names(), self.device, *ranks)
        self.decision.check(trainer.callbacks)
        calibration = None
        if self.decision.recall is not None:
            calibration = calibration_features(trainer, trainer.datamodule, lambda x: self._encode(x)[0])
        self.decision.take_calibration(calibration)

    on_predict_start = on_test_start

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Score a batch for `NegativeMemory` and the metrics; None for a batch that is left out."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        label = out["label"]
        if label is None:
            wanted = "labels (negative = OOD); for unlabelled images use trainer.predict"
            raise ValueError(f"a test batch needs {wanted}")
        if len(label) and int(label.max()) >= len(self.class_names):
            raise ValueError(f"label {int(label.max())} with {len(self.class_names)} class names")
        return out

    @torch.no_grad()
    def _step(self, given: Any, loader: int) -> dict[str, Any]:
        """`forward` of a batch of images or features; those of NaN or Inf are left out.

        The outputs also hold `label`, `index` and `path` of the batch; `kept`, the rows that were scored
        (None: all); and `lost`, the images that could not be read and those that are left out here.
        """
        batch = self.evaluation.number(Batch.read(given), loader)
        features, patches = self._encode(batch.images)
        good = features.isfinite().all(1)
        if patches is not None:
            good &= patches.isfinite().flatten(1).all(1)
        if not good.all():
            batch = batch.only(good)
            features, patches = features[good], None if patches is None else patches[good]
        self.evaluation.log_lost(batch.lost)
        known = {name: getattr(batch, name) for name in ("label", "index", "path", "kept", "lost")}
        return {**self.decide(self._score(features, patches)), **known}

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """`encode` of images that are fit for the tower, or of features `(n, d)`, which stay as they are."""
        if images.ndim == 2:
            if self.baselines.needing_patches:
                names = ", ".join(self.baselines.needing_patches)
                raise ValueError(f"features alone hold no patches: {names} needs images")
            return images.float(), None
        if len(images):
            check_pixels(images, self.clip.visual)
            return in_words(self.encode, images, self.clip.visual)
        none = self.spaces.id_text[:0]
        return none, none[:, None] if self.baselines.needing_patches else None

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics. Callbacks come before, so that `score_after_refresh` can score once more."""
        if outputs is not None:
            self.evaluation.update(dataloader_idx, outputs, batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Score a batch, which needs no labels; the outputs also hold the `class_name` of each image."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        self.evaluation.count(dataloader_idx, out, batch)
        return {**out, "class_name": [self.class_names[i] for i in out["prediction"].tolist()]}

    def on_predict_end(self) -> None:
        """Warn of each stream that lost so many images that its rows cannot stand for it."""
        for stream, faults in self.evaluation.end_prediction(list(stream_loaders(self.trainer))).items():
            logger.warning("stream %r: %s", stream, faults[0]["text"])
        self.encoder.flush()

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on, between two batches.

        It holds tensors, lists of tensors and plain JSON values. They are references, not copies: everything
        in a state is replaced later, never edited in place.
        """
        return {name: getattr(self, name).state() for name in _STATEFUL}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a `state`, in a run that has started with the same configuration."""
        state = apply_to_collection(state, Tensor, lambda x: x.to(self.device))
        for name in _STATEFUL:
            getattr(self, name).restore(state[name])

    def on_test_epoch_end(self) -> None:
        """Compute and log `test/<group>/<stream>/<score>/<metric>`, λ and the like."""
        frozen = {
            "lambda": self.spaces.lambda_,
            "n_ens": len(self.spaces.ens),
            "n_vsnl": len(self.spaces.vsnl),
        }
        for name, value in self.evaluation.compute(frozen, self.threshold).items():
            self.log(f"test/{name}", value, add_dataloader_idx=False, rank_zero_only=True)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What the last test run measured, by stream, as in `results.json`."""
        return self.evaluation.results

    @property
    def faults(self) -> dict[str, list[Fault]]:
        """What makes columns of the last run meaningless, or kept a prediction from its work, by stream."""
        return self.evaluation.faults

    def on_test_end(self) -> None:
        """Refuse streams that could not be measured, now that the good ones are reported."""
        self.encoder.flush()
        if self.evaluation.refused:
            refused = [f"stream {name!r}: {why}" for name, why in self.evaluation.refused.items()]
            raise ValueError("; ".join(refused))
