"""`ANTS`: the detector, a LightningModule."""

from typing import Any, Literal

from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.baselines.columns import Baselines
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
from ants_lightning.common.settings import plain, plain_path
from ants_lightning.data.loading import keep_exact
from ants_lightning.decide.threshold import Decision
from ants_lightning.method.checks import check_features
from ants_lightning.spaces.folder import files_of, load_spaces, read_settings, save_spaces, settings_of
from ants_lightning.spaces.settings import DetectorSettings
from ants_lightning.spaces.text_space import read_labels
from ants_lightning.spaces.text_spaces import TextSpaces
from ants_lightning.steps import StreamSteps


class ANTS(StreamSteps):
    """Zero-shot OOD detection with CLIP and negative texts (ANTS, CVPR 2026, arXiv 2509.03951).

    By itself it is a plain evaluator of MCM and NegLabel. The callback `NegativeMemory` adapts its `spaces`
    to the stream. Settings may also be scalars, arrays and Series of NumPy, pandas and torch, tuples and
    paths; `~` is the home folder.

    Args:
        model: a model of open_clip by name, or `local-dir:<folder>` or `hf-hub:<repo>`.
        pretrained: open_clip's tag of the weights, or a file; None: random weights. A model from a folder or
            hub brings its own weights.
        class_names: names of the ID classes, or a file of them (`data.read_class_names`); None: those of the
            data module.
        prompts: the texts made of names, words and sentences. A `Prompts` or a dict of its settings.
        negatives: where the negative labels come from. A `Negatives` or a dict of its settings.
        temperature: τ of all scores but MCM.
        mcm_temperature: τ of MCM, on cosines.
        num_groups: G of the spaces NegLabel and ENS.
        vsnl_groups: G of the space VSNL, whose some hundred labels are one group by default.
        text_batch_size: texts per forward pass of the text tower.
        text_cache: a folder that keeps text features from one run to the next; None: they are not kept.
        baselines: scores of other papers, as more columns of the table.
        spaces: a folder of spaces that an earlier run ended with (`save_spaces`): N_nl, ENS, VSNL and λ. They
            stay as they are without `NegativeMemory` or with its `adapt: false`; else each stream starts
            from them.
        threshold: the OOD score from which on an image is called OOD: a number in [0, 1], `auto` or
            `{id_recall: 0.95}` (see `Decision`); None: nothing is decided.

    Raises:
        ValueError: for a setting out of range; at set-up also for class names that are missing, empty or
            repeated, and for a file that is not there.
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
        self.prompts = group_of(Prompts, "prompts", prompts)
        self.negatives = group_of(Negatives, "negatives", negatives)
        class_names = plain(class_names)  # Lightning compares arguments by `==`, which a Series cannot
        settings = DetectorSettings(
            model=model,
            pretrained=pretrained,
            class_names=class_names,
            prompts=self.prompts,
            negatives=self.negatives,
            temperature=temperature,
            mcm_temperature=mcm_temperature,
            num_groups=num_groups,
            vsnl_groups=vsnl_groups,
            text_batch_size=text_batch_size,
            text_cache=text_cache,
            spaces=spaces,
            threshold=threshold,
        )
        self.save_hyperparameters(settings.asdict())
        self.decision = Decision(settings.threshold)
        clip, self.preprocess, tokenizer = load_clip(settings.model, settings.pretrained)
        self.clip: Any = clip
        self.encoder = TextEncoder(
            clip, tokenizer, settings.text_batch_size, cache_dir=plain_path(settings.text_cache)
        )
        self.baselines = Baselines(baselines, clip.visual)
        self.class_names: list[str] = []
        self.vocabulary = Vocabulary([], [], self.prompts)
        self.spaces = TextSpaces(
            self.encoder(["a"]).shape[1],
            settings.temperature,
            settings.mcm_temperature,
            settings.num_groups,
            settings.vsnl_groups,
        )

    def setup(self, stage: str) -> None:
        """Check class names and words, and see to it that every image comes exactly once."""
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
            for name in self.baselines.needing_negatives:
                wanted = "give ANTS negatives (nouns, adjectives or a bank)"
                raise ValueError(f"{name} needs negative labels: {wanted}")
        if self._trainer is not None:
            keep_exact(self._trainer, self._skip)

    def prepare(self) -> None:
        """Begin a run: encode the class names and mine the negative labels, on the module's device."""
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
        self.baselines.prepare(inputs)
        self.encoder.flush()
        self.spaces.reset()
        self.decision.reset()

    def reset(self, keep_decision: bool = False) -> None:
        """Begin a stream: forget what the last one taught; `keep_decision` spares the threshold `auto`."""
        self.baselines.reset()
        self.spaces.reset()
        if not keep_decision:
            self.decision.reset()

    def score_names(self) -> list[str]:
        """The columns of the table, in order."""
        plain_scores, adapted = self.spaces.score_names()[:2], self.spaces.score_names()[2:]
        return [*plain_scores, *self.baselines, *adapted]

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Score preprocessed images `(n, 3, h, w)`.

        Returns:
            `features` `(n, d)`, L2-normalised, float32; `prediction` `(n,)`, ID labels; `scores`, OOD scores
            `(n,)` by name, larger = more OOD; `id_score`, S_nl `(n,)` in [0, 1]. Without negative labels
            there are no scores but MCM, and no `id_score`.

        Raises:
            ValueError: for features that are NaN or Inf.
        """
        return self.score(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode preprocessed images `(n, 3, h, w)`.

        Returns:
            Features `(n, d)`, and patch features `(n, p, d)` or, where no baseline needs them, None; both
            L2-normalised, float32.
        """
        return encode_images(self.clip, images, bool(self.baselines.needing_patches))

    def score(self, features: Tensor, patches: Tensor | None = None) -> dict[str, Any]:
        """`forward` from features `(n, d)` on: one matmul against all spaces, and the baselines."""
        check_features("image_features", features)
        return self._score(features, patches)

    def _score(self, features: Tensor, patches: Tensor | None) -> dict[str, Any]:
        cosines = self.spaces.cosines(features)
        found = self.spaces.score(cosines)
        if self.baselines:
            scores = found["scores"]
            scores |= self.baselines(Seen(features, cosines.id_text, cosines.neglabel, patches))
            found["scores"] = {name: scores[name] for name in self.score_names()}
        return {"features": features, **found}

    def files_of_spaces(self, answers: dict[str, list[str]] | None = None) -> dict[str, bytes]:
        """The files of `save_spaces`, by name."""
        return files_of(self.spaces, self.encoder, self.prompts.id, self.threshold, answers)

    def save_spaces(self, folder: str, answers: dict[str, list[str]] | None = None) -> None:
        """Keep the spaces of now in a folder, for `ANTS(spaces=folder)`.

        Args:
            folder: made where it isn't there.
            answers: the MLLM's similar names by class, for a run that starts from these spaces.

        Raises:
            OSError: where the folder cannot be written, or holds files of others under such names.
        """
        save_spaces(folder, self.files_of_spaces(answers))
