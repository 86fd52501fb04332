"""`ANTS`: the LightningModule that scores a stream, batch by batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen, by_name
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.clip.towers import encode_images, image_size, load_clip
from ants_lightning.clip.vocabulary import (
    Vocabulary,
    check_distinct,
    checked_class_names,
    in_prompt,
    warn_of_codes,
)
from ants_lightning.common.groups import group_of
from ants_lightning.common.settings import check_counts, check_positive, plain, plain_path
from ants_lightning.data.batches import Batch, stream_loaders
from ants_lightning.data.calibration import calibration_features
from ants_lightning.data.loading import keep_exact
from ants_lightning.data.pixels import check_pixels, in_words
from ants_lightning.decide.threshold import Decision, decisive
from ants_lightning.evaluation import Evaluation
from ants_lightning.health import Fault
from ants_lightning.method.checks import check_features
from ants_lightning.spaces.folder import files_of, load_spaces, read_settings, save_spaces, settings_of
from ants_lightning.spaces.text_space import read_labels
from ants_lightning.spaces.text_spaces import TextSpaces

logger = logging.getLogger(__name__)

_CHUNK = 1024  # calibration images scored at a time


class ANTS(L.LightningModule):
    """Zero-shot OOD detection with CLIP and negative texts (ANTS, CVPR 2026, arXiv 2509.03951).

    By itself it is a plain MCM / NegLabel evaluator; the callback `NegativeMemory` adapts its `spaces` to the stream. A
    setting out of range is a ValueError here; no, empty or repeated class names and a missing file are one at set-up.
    Settings may also be scalars, arrays and Series of NumPy, pandas and torch, tuples and paths; `~` is the home folder.

    Args:
        model: an open_clip model name, or `local-dir:<folder>` or `hf-hub:<repo>`.
        pretrained: open_clip's tag for the weights, or a file; None: random weights (not used with a schema).
        class_names: ID class names, or a file of them (`data.read_class_names`); None: the data module's `class_names`.
        prompts: the texts of names, words and sentences (`clip.settings.Prompts`), or a dict of them.
        negatives: where the negative labels come from (`clip.settings.Negatives`), or a dict of it.
        temperature: τ of all scores but MCM.
        mcm_temperature: τ of MCM, on cosines.
        num_groups: G of the NegLabel and ENS spaces.
        vsnl_groups: G of the VSNL space (some hundred labels: one group).
        text_batch_size: texts per forward of the text tower.
        text_cache: folder where text features are kept from one run to the next; None: they are not.
        baselines: scores of other papers, more columns of the table (`ants_lightning.baselines`).
        spaces: folder with the spaces that an earlier run ended with (`save_spaces`): N_nl, ENS, VSNL and λ. Without
            `NegativeMemory`, or with `adapt: false`, they stay as they are; otherwise each stream starts from them.
        threshold: which OOD scores are called OOD: a number in [0, 1], `auto` or `{id_recall: 0.95}` (`Decision`);
            None: none.
    """

    def __init__(
        self,
        model: str = "ViT-B-16-quickgelu",
        pretrained: str | None = "openai",
        class_names: list[str] | str | None = None,
        prompts: Prompts = Prompts(),
        negatives: Negatives = Negatives(),
        temperature: float = 0.01,
        mcm_temperature: float = 1.0,
        num_groups: int = 100,
        vsnl_groups: int = 1,
        text_batch_size: int = 256,
        text_cache: str | None = None,
        baselines: list[Baseline] | None = None,
        spaces: str | None = None,
        threshold: float | Literal["auto"] | dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.prompts, self.negatives = (
            group_of(Prompts, "prompts", prompts),
            group_of(Negatives, "negatives", negatives),
        )
        class_names = plain(class_names)
        settings = {
            "model": plain(model),
            "pretrained": plain(pretrained),
            "class_names": class_names,
            "prompts": self.prompts.asdict(),
            "negatives": self.negatives.asdict(),
            "temperature": plain(temperature),
            "mcm_temperature": plain(mcm_temperature),
            "num_groups": plain(num_groups),
            "vsnl_groups": plain(vsnl_groups),
            "text_batch_size": plain(text_batch_size),
            "text_cache": plain(text_cache),
            "spaces": plain(spaces),
            "threshold": plain(threshold),
        }
        _check(settings)
        self.save_hyperparameters(settings)
        self.decision = Decision(settings["threshold"])
        clip, self.preprocess, tokenizer = load_clip(settings["model"], settings["pretrained"])
        self.clip: Any = clip
        self.encoder = TextEncoder(
            clip, tokenizer, settings["text_batch_size"], cache_dir=plain_path(text_cache)
        )
        self.baselines = nn.ModuleDict(by_name([] if baselines is None else baselines, clip.visual))
        self.class_names: list[str] = []
        self.vocabulary = Vocabulary([], [], self.prompts)
        taus, groups = (
            (settings["temperature"], settings["mcm_temperature"]),
            (settings["num_groups"], settings["vsnl_groups"]),
        )
        self.spaces = TextSpaces(self.encoder(["a"]).shape[1], *taus, *groups)
        self.evaluation = Evaluation()
        self._skip: list[int] = []  # batches of each loader that an interrupted run has done
        self._calibration: Tensor | None = None  # features of the labelled ID images, (n, d)
        self._calibrated: Any = None  # version of the spaces that they were scored in

    def setup(self, stage: str) -> None:
        """Check names and words, and see to it that every image comes once, before anything runs."""
        h, names = self.hparams, self.hparams["class_names"]
        if names is None:  # with names of its own the module needs no trainer
            names = getattr(self.trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        self.class_names = checked_class_names(names)
        warn_of_codes(self.class_names)
        check_distinct(self.class_names, self.prompts, self.encoder)
        self.vocabulary = Vocabulary.read(self.negatives, self.prompts)
        if h["spaces"]:
            read_settings(h["spaces"], self.class_names, settings_of(self.spaces, self.prompts.id))
        if self.negatives.bank:
            read_labels(self.negatives.bank, "labels")
        if not (len(self.vocabulary) or self.negatives.bank or h["spaces"]):
            for name, baseline in self.baselines.items():
                if baseline.needs_negatives:
                    raise ValueError(
                        f"{name} needs negative labels: give ANTS negatives (nouns, adjectives or a bank)"
                    )
        if self._trainer is not None:
            keep_exact(self._trainer, self._skip)

    def resume_at(self, position: Sequence[int]) -> None:
        """Leave out this many batches of each loader of the next run, here: an interrupted run has done them."""
        self._skip = list(position)

    def prepare(self) -> None:
        """Encode the class names and mine the negative labels, on the module's device; called when a run starts."""
        self.spaces.set_classes(self.class_names, self.encoder(in_prompt(self.prompts.id, self.class_names)))
        if self.hparams["spaces"]:
            load_spaces(self.hparams["spaces"], self.spaces, self.encoder, self.prompts.id)
        elif self.negatives.bank:
            self.spaces.neglabel.load(self.negatives.bank, "labels", self.encoder)
        else:
            self.spaces.mine_neglabel(self.vocabulary, self.negatives, self.encoder)
        inputs = DetectorInputs(
            id_text=self.spaces.id_text,
            negative_text=self.spaces.neglabel.features.to(self.spaces.id_text),
            vocabulary=self.vocabulary.without(self.class_names),
            mining=self.negatives,
            temperature=self.spaces.temperature,
            num_groups=self.spaces.neglabel.num_groups,
            image_size=image_size(self.clip.visual),
            encode_text=self.encoder,
            encode_image=lambda images: self.encode(images)[0],
        )
        for baseline in self.baselines.values():
            baseline.prepare(inputs)  # type: ignore[operator]
        self.encoder.flush()
        self.spaces.reset()
        self.decision.reset()

    def reset(self, keep_decision: bool = False) -> None:
        """A stream begins: forget what the one before taught; `keep_decision`: but for the threshold `auto`."""
        for baseline in self.baselines.values():
            baseline.reset()  # type: ignore[operator]
        self.spaces.reset()
        if not keep_decision:
            self.decision.reset()

    def score_names(self) -> list[str]:
        """The columns of the table, in order."""
        plain_scores, adapted = self.spaces.score_names()[:2], self.spaces.score_names()[2:]
        return [*plain_scores, *self.baselines, *adapted]

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Score preprocessed images `(n, 3, h, w)`; NaN or Inf features are a ValueError.

        Returns:
            `features` `(n, d)`, L2-normalised, float32; `prediction` `(n,)`, ID labels; `scores`, OOD scores `(n,)` by
            name, larger = more OOD; `id_score`, S_nl `(n,)` (absent without negative labels, as all scores but MCM).
        """
        return self.score(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `(n, d)` and, where a baseline needs them, patch features `(n, p, d)`; L2-normalised, float32."""
        return encode_images(self.clip, images, self._with_patches)

    @property
    def _with_patches(self) -> bool:
        return any(baseline.needs_patches for baseline in self.baselines.values())

    def score(self, features: Tensor, patches: Tensor | None = None) -> dict[str, Any]:
        """`forward` from features `(n, d)` on: one matmul against all spaces, and the baselines."""
        check_features("image_features", features)
        return self._score(features, patches)

    def _score(self, features: Tensor, patches: Tensor | None) -> dict[str, Any]:
        cosines = self.spaces.cosines(features)
        found = self.spaces.score(cosines)
        if self.baselines:
            seen = Seen(features, cosines.id_text, cosines.neglabel, patches)
            with torch.autocast(features.device.type, enabled=False):
                scores = found["scores"] | {name: baseline(seen) for name, baseline in self.baselines.items()}
            found["scores"] = {name: scores[name] for name in self.score_names()}
        return {"features": features, **found}

    @property
    @torch.no_grad()
    def threshold(self) -> float | None:
        """The OOD score from which on an image is called OOD, in the spaces of now; None: nothing is decided."""
        if self._calibration is not None and self._calibrated != self.spaces.version:
            parts = [decisive(self.spaces(part)["scores"]) for part in self._calibration.split(_CHUNK)]
            self.decision.calibrate(torch.cat(parts))
            self._calibrated = self.spaces.version
        return self.decision.value

    def decide(self, found: dict[str, Any]) -> dict[str, Any]:
        """What `score` gives, with `lambda`, `threshold` and `is_ood` of now."""
        threshold = self.threshold
        is_ood = self.decision.decide(decisive(found["scores"]))
        return {**found, "lambda": self.spaces.lambda_, "threshold": threshold, "is_ood": is_ood}

    def files_of_spaces(self, answers: dict[str, list[str]] | None = None) -> dict[str, bytes]:
        """The files of `save_spaces`, by name."""
        return files_of(self.spaces, self.encoder, self.prompts.id, self.threshold, answers)

    def save_spaces(self, folder: str, answers: dict[str, list[str]] | None = None) -> None:
        """Keep the spaces of now in a folder, for `ANTS(spaces=folder)`.

        Args:
            folder: made where it isn't there; OSError where it cannot be written, or holds files of others of such names.
            answers: the MLLM's similar names by class, for a run that starts from these spaces.
        """
        save_spaces(folder, self.files_of_spaces(answers))

    def on_test_start(self) -> None:
        """Make the spaces, and begin to evaluate the streams."""
        self.prepare()
        trainer: Any = self.trainer
        groups = getattr(trainer.datamodule, "groups", None)
        ranks = trainer.world_size, trainer.global_rank
        self.evaluation = Evaluation(stream_loaders(trainer), groups, self.score_names(), self.device, *ranks)
        self.decision.check(trainer.callbacks)
        self._calibration = None
        if self.decision.recall is not None:
            features = calibration_features(
                trainer, trainer.datamodule, lambda images: self._encode(images)[0]
            )
            self._calibration, self._calibrated = features, None

    on_predict_start = on_test_start

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Score a batch; the outputs are what `NegativeMemory` and the metrics take. None for a batch that is left out."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        label = out["label"]
        if label is None:
            raise ValueError(
                "a test batch needs labels (negative = OOD); for unlabelled images use trainer.predict"
            )
        if len(label) and int(label.max()) >= len(self.class_names):
            raise ValueError(f"label {int(label.max())} with {len(self.class_names)} class names")
        return out

    @torch.no_grad()
    def _step(self, given: Any, loader: int) -> dict[str, Any]:
        """`forward` of a batch of images or features; those of NaN or Inf are left out.

        Besides, the outputs hold `label`, `index` and `path` of the batch, `kept`, which of its rows were scored (None:
        all), and `lost`: what the batch tells of images that could not be read, and those left out here.
        """
        batch = self.evaluation.number(Batch.read(given), loader)
        features, patches = self._encode(batch.images)
        good = features.isfinite().all(1)
        if patches is not None:
            good &= patches.isfinite().flatten(1).all(1)
        if not good.all():
            batch = batch.only(good)
            features, patches = features[good], None if patches is None else patches[good]
        self.evaluation.lose(batch.lost)
        known = {name: getattr(batch, name) for name in ("label", "index", "path", "kept", "lost")}
        return {**self.decide(self._score(features, patches)), **known}

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """`encode` of images that are fit for the tower, or of features `(n, d)`, which stay as they are."""
        if images.ndim == 2:
            if self._with_patches:
                names = [name for name, baseline in self.baselines.items() if baseline.needs_patches]
                raise ValueError(f"features alone hold no patches: {', '.join(names)} needs images")
            return images.float(), None
        if len(images):
            check_pixels(images, self.clip.visual)
            return in_words(self.encode, images, self.clip.visual)
        none = self.spaces.id_text[:0]
        return none, none[:, None] if self._with_patches else None

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the stream's metrics: after the callbacks, so that `score_after_refresh` can score once more."""
        if outputs is not None:
            self.evaluation.update(dataloader_idx, outputs, batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """What `forward` gives of a batch, and `decide`; `class_name`s, `index`, `path` and `lost`; needs no labels."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        self.evaluation.count(dataloader_idx, out, batch)
        return {**out, "class_name": [self.class_names[i] for i in out["prediction"].tolist()]}

    def on_predict_end(self) -> None:
        """Say of each stream if so many images were left out that its rows are not those of the stream."""
        for stream, faults in self.evaluation.end_prediction(list(stream_loaders(self.trainer))).items():
            logger.warning("stream %r: %s", stream, faults[0]["text"])
        self.encoder.flush()

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on, between two batches: tensors, lists of tensors and plain JSON values.

        References, not copies: everything in it is replaced later, never edited in place.
        """
        return {
            "spaces": self.spaces.state(),
            "decision": self.decision.state(),
            "evaluation": self.evaluation.state(),
            "baselines": {name: baseline.state() for name, baseline in self.baselines.items()},  # type: ignore[operator]
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told, in a run that has started with the same configuration."""
        state = apply_to_collection(state, Tensor, lambda x: x.to(self.device))
        self.spaces.restore(state["spaces"])
        self.decision.restore(state["decision"])
        self.evaluation.restore(state["evaluation"])
        for name, baseline in self.baselines.items():
            baseline.restore(state["baselines"][name])  # type: ignore[operator]

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
        """What makes columns of the last run meaningless, by stream; after a prediction, what kept it from learning or scoring."""
        return self.evaluation.faults

    def on_test_end(self) -> None:
        """Keep text features; only now, with the good streams reported, refuse those that could not be measured."""
        self.encoder.flush()
        if self.evaluation.refused:
            raise ValueError(
                "; ".join(f"stream {name!r}: {why}" for name, why in self.evaluation.refused.items())
            )


def _check(settings: Mapping[str, Any]) -> None:
    """What can be known of settings before anything is loaded; the error names the first that is wrong, and its value."""
    for name in ("model", "pretrained", "text_cache", "spaces"):
        if not isinstance(settings[name], str | None) or (name == "model" and not settings[name]):
            raise ValueError(f"{name} must be a name or path, got {settings[name]!r}")
    check_positive(temperature=settings["temperature"], mcm_temperature=settings["mcm_temperature"])
    check_counts(**{name: settings[name] for name in ("num_groups", "vsnl_groups", "text_batch_size")})
    spaces, bank = settings["spaces"], settings["negatives"]["bank"]
    if spaces and bank:
        raise ValueError(f"spaces hold a label bank of their own: got both {spaces!r} and {bank!r}")
    if settings["class_names"] is not None:
        checked_class_names(settings["class_names"])
