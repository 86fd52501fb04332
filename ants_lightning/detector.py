"""`Detector`: CLIP, the ID and the negative text spaces, and the scores against them."""

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ants_lightning.baselines import Baseline, Seen, activation_aware_score
from ants_lightning.clip import wordnet
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.towers import encode_with_patches, gives_patches
from ants_lightning.clip.vocabulary import checked_class_names, checked_words, warn_of_codes
from ants_lightning.common.exact import ExactBuffers
from ants_lightning.common.settings import check_counts, check_positive, check_shares, is_number, plain, plain_path
from ants_lightning.decide.threshold import Decision
from ants_lightning.method.checks import check_features
from ants_lightning.method.counts import count_of
from ants_lightning.method.negatives import mine_negative_labels, without_names
from ants_lightning.method.scores import margins, mcm_from_logits
from ants_lightning.spaces.folder import Spaces, load_spaces, read_settings
from ants_lightning.spaces.text_space import TextSpace, read_labels


class Detector(ExactBuffers, L.LightningModule):
    """CLIP, the text spaces and every score of the table in one pass; what `ANTS` runs over a stream.

    A setting out of range is a ValueError here; no, empty or repeated class names and a missing file are one at set-up. Settings
    may be what is like these types: scalars, arrays and Series of NumPy, pandas and torch, tuples, paths (`plain`); `~` in a path
    is the home folder.

    Args:
        model: an open_clip model name, or `local-dir:<folder>` or `hf-hub:<repo>`.
        pretrained: open_clip's tag for the weights, or a file; None: random weights (not used with a schema).
        class_names: ID class names, or a file of them (`data.read_class_names`); None: the data module's `class_names`.
        nouns: candidates for negative labels, or a text file with one a line, or `wordnet`: those of WordNet 3.0.
        adjectives: likewise.
        keep: which share of the nouns and of the adjectives (float), or how many of each (int), become N_nl.
        percentile: of NegMining.
        id_prompt: the text of an ID class and of a VSNL label; `{}` is its name.
        noun_prompt: the text of a negative noun.
        adjective_prompt: the text of a negative adjective.
        sentence_prompt: the text of an ENS sentence.
        temperature: τ of all scores but MCM.
        mcm_temperature: τ of MCM, on cosines.
        num_groups: G of the NegLabel and ENS spaces.
        vsnl_groups: G of the VSNL space (some hundred labels: one group).
        text_batch_size: texts per forward of the text tower.
        baselines: scores of other papers, more columns of the table (`ants_lightning.baselines`).
        label_bank: folder with the `labels.txt` of an earlier run (`TextSpace.save`), people's edits included: these texts are
            N_nl, and nothing is mined.
        text_cache: folder where text features are kept from one run to the next; None: they are not.
        spaces: folder with the spaces that an earlier run ended with (`spaces.save_spaces`): N_nl, ENS, VSNL and λ. Without
            `NegativeMemory`, or with `adapt: false`, they stay as they are; otherwise each stream starts from them.
        threshold: which OOD scores are called OOD: a number in [0, 1], `auto` or `{id_recall: 0.95}` (`Decision`); None: none.
    """

    def __init__(
        self, model: str = "ViT-B-16-quickgelu", pretrained: str | None = "openai", class_names: list[str] | str | None = None,
        nouns: list[str] | str = (), adjectives: list[str] | str = (),  # type: ignore[assignment]
        keep: int | float = 0.15, percentile: float = 0.95,
        id_prompt: str = "The nice {}.", noun_prompt: str = "The nice {}.", adjective_prompt: str = "This is a {} photo.",
        sentence_prompt: str = "{}",
        temperature: float = 0.01, mcm_temperature: float = 1.0, num_groups: int = 100, vsnl_groups: int = 1,
        text_batch_size: int = 256, baselines: list[Baseline] | None = None, label_bank: str | None = None,
        text_cache: str | None = None, spaces: str | None = None,
        threshold: float | Literal["auto"] | dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        given = {name: plain(value) for name, value in locals().items() if name not in ("self", "__class__", "baselines")}
        super().__init__()
        _check_settings(given)
        self.decision = Decision(given["threshold"])
        nouns, adjectives = given["nouns"], given["adjectives"]  # lists, their defaults too: what follows looks at these variables
        self.save_hyperparameters(ignore=["baselines"])
        self.hparams.update(given)
        model, pretrained = plain_path(model), plain_path(pretrained)
        clip, _, self.preprocess = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        self.clip: Any = clip.requires_grad_(False).eval()
        tokenizer = open_clip.get_tokenizer(model)
        self.encoder = TextEncoder(self.clip, tokenizer, given["text_batch_size"], cache_dir=plain_path(text_cache))
        self.baselines: nn.ModuleDict = nn.ModuleDict(self._by_name([] if baselines is None else baselines))
        self.class_names: list[str] = []
        dim = self.encoder(["a"]).shape[1]
        self.id_text: Tensor
        self.register_buffer("id_text", torch.empty(0, dim), persistent=False)
        self.neglabel, self.ens = TextSpace(dim, given["num_groups"]), TextSpace(dim, given["num_groups"])
        self.vsnl = TextSpace(dim, given["vsnl_groups"])
        self.start: Spaces | None = None  # what a stream starts from
        self.weight = 0.5  # λ
        self.shaped = True  # whether there are ENS and VSNL spaces to score with
        self.ens_ranked: Tensor | None = None  # places in the ENS queue, most activated first: `ens` is TANL's score with these

    def _by_name(self, baselines: Sequence[Baseline]) -> dict[str, Baseline]:
        taken = {"mcm", "neglabel", "ens", "vsnl", "ants"}
        if not isinstance(baselines, Sequence) or not all(isinstance(baseline, Baseline) for baseline in baselines):
            raise ValueError(f"baselines must be a list of baselines, like [MaxLogit()], got {baselines!r:.80}")
        for baseline in baselines:
            if baseline.name in taken:
                raise ValueError(f"two scores with the name {baseline.name!r}")
            if baseline.needs_patches and not gives_patches(self.clip.visual):
                raise ValueError(f"{baseline.name} needs patch features, and {type(self.clip.visual).__name__} gives none")
            taken.add(baseline.name)
        self._with_patches = any(baseline.needs_patches for baseline in baselines)
        return {baseline.name: baseline for baseline in baselines}

    def setup(self, stage: str) -> None:
        """Check the names and the words before anything runs."""
        names = self.hparams["class_names"]
        if names is None:  # with names of its own the module needs no trainer
            names = getattr(self.trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        self.class_names = checked_class_names(names)
        warn_of_codes(self.class_names)
        if same := self.encoder.first_same([self.hparams["id_prompt"].format(name) for name in self.class_names]):
            first, second = (self.class_names[i] for i in same)
            raise ValueError(
                f"class_names {first!r} and {second!r} are one to this model: its tokenizer makes the same of both (case, blanks, "
                "unknown words and what is beyond its context do not count), so that no image could be told to be of the second"
            )
        self.nouns = checked_words("nouns", self.hparams["nouns"], wordnet.nouns)
        self.adjectives = checked_words("adjectives", self.hparams["adjectives"], wordnet.adjectives)
        if self.hparams["spaces"]:
            read_settings(self.hparams["spaces"], self.class_names, dict(self.hparams))
        if self.hparams["label_bank"]:
            read_labels(self.hparams["label_bank"], "labels")
        if not (self.nouns or self.adjectives or self.hparams["label_bank"] or self.hparams["spaces"]):
            for name, baseline in self.baselines.items():
                if baseline.needs_negatives:
                    raise ValueError(f"{name} needs negative labels: give ANTS nouns, adjectives or a label_bank")

    def prepare(self) -> None:
        """Encode the class names and mine the negative labels, on the module's device; called when a run starts."""
        h: Any = self.hparams
        self.id_text = self.encoder([h.id_prompt.format(name) for name in self.class_names])
        if h.spaces:
            self.start = load_spaces(self, h.spaces)
        elif h.label_bank:
            self.neglabel.load(h.label_bank, "labels", self.encoder)
        else:
            texts = [*self._mine(self.nouns, h.noun_prompt), *self._mine(self.adjectives, h.adjective_prompt)]
            if texts:
                self.neglabel.replace(texts, self.encoder(texts))
        for baseline in self.baselines.values():
            baseline.prepare(self)  # type: ignore[operator]
        self.encoder.flush()
        self._clear_spaces()

    def _mine(self, words: list[str], prompt: str) -> list[str]:
        texts = [prompt.format(word) for word in without_names(words, self.class_names)]
        if not texts:
            return []
        chosen = mine_negative_labels(self.encoder(texts), self.id_text, self.hparams["keep"], self.hparams["percentile"])
        return [texts[i] for i in chosen.tolist()]

    def reset_spaces(self) -> None:
        """Forget what the stream taught: ENS, VSNL and λ as in `spaces`, or empty and 0.5; baselines as at first."""
        for baseline in self.baselines.values():
            baseline.reset()  # type: ignore[operator]
        self._clear_spaces()

    def _clear_spaces(self) -> None:
        self.ens.clear()
        self.vsnl.clear()
        self.weight, self.ens_ranked = 0.5, None
        if self.start:
            self.ens.replace(self.start.ens.labels, self.start.ens.features)
            self.vsnl.replace(self.start.vsnl.labels, self.start.vsnl.features)
            self.weight, self.ens_ranked = self.start.weight, self.start.ens_ranked
        self.decision.reset()
        self.spaces_changed()

    def spaces_changed(self) -> None:
        """Stack all texts for the one matmul of a step; to be called after any change of a space."""
        ens = self.ens.grouped() if self.ens_ranked is None else self.ens.features[self.ens_ranked]
        parts = [self.id_text, self.neglabel.grouped(), ens, self.vsnl.grouped()]
        self._stacked, self._sizes = torch.cat(parts).to(self.device), [len(part) for part in parts]

    def score_names(self) -> list[str]:
        """The columns of the table, in order."""
        if not len(self.neglabel):
            return ["mcm", *self.baselines]
        return ["mcm", "neglabel", *self.baselines, *(("ens", "vsnl", "ants") if self.shaped else ())]

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Score preprocessed images `(n, 3, h, w)`; NaN or Inf features are a ValueError.

        Returns:
            `features` `(n, d)`, L2-normalised, float32; `prediction` `(n,)`, ID labels; `scores`, OOD scores `(n,)` by
            name, larger = more OOD; `id_score`, S_nl `(n,)` (absent without negative labels, as all scores but MCM).
        """
        return self.score(*self.encode(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `(n, d)` and, where a baseline needs them, patch features `(n, p, d)`; L2-normalised, float32."""
        if images.is_floating_point():
            images = images.to(next(self.clip.visual.parameters()).dtype)  # where Lightning keeps the weights in another precision
        if not self._with_patches:
            return F.normalize(self.clip.encode_image(images).float(), dim=1), None
        features, patches = encode_with_patches(self.clip.visual, images)
        return F.normalize(features.float(), dim=1), F.normalize(patches.float(), dim=2)

    def score(self, features: Tensor, patches: Tensor | None = None) -> dict[str, Any]:
        """`forward` from features `(n, d)` on: one matmul against all spaces, and the baselines."""
        check_features("image_features", features)
        return self._score(features, patches)

    def _score(self, features: Tensor, patches: Tensor | None) -> dict[str, Any]:
        out, seen = self._compare(features, patches)
        if self.baselines:
            with torch.autocast(features.device.type, enabled=False):
                scores = out["scores"] | {name: baseline(seen) for name, baseline in self.baselines.items()}
            out["scores"] = {name: scores[name] for name in self.score_names()}
        return out

    def score_spaces(self, features: Tensor) -> dict[str, Any]:
        """`score` without the baselines."""
        check_features("image_features", features)
        return self._compare(features, None)[0]

    def _compare(self, features: Tensor, patches: Tensor | None) -> tuple[dict[str, Any], Seen]:
        with torch.autocast(features.device.type, enabled=False):
            cosines = features @ self._stacked.T
            id_cos, *negatives = cosines.split(self._sizes, dim=1)
            tau = self.hparams["temperature"]
            scores = {"mcm": mcm_from_logits(id_cos / self.hparams["mcm_temperature"])}
            out = {"features": features, "prediction": id_cos.argmax(1), "scores": scores}
            if len(self.neglabel):
                odds = margins(id_cos / tau, negatives[0] / tau, self.neglabel.num_groups)
                out["id_score"] = (-odds).sigmoid().mean(1)
                scores["neglabel"] = odds.sigmoid().mean(1)
            if len(self.neglabel) and self.shaped:
                scores["ens"] = scores["vsnl"] = scores["neglabel"]
                for name, space, cosine in (("ens", self.ens, negatives[1]), ("vsnl", self.vsnl, negatives[2])):
                    if name == "ens" and self.ens_ranked is not None:
                        scores[name] = activation_aware_score(id_cos / tau, cosine / tau, step=2).float()
                    elif len(space):
                        scores[name] = margins(id_cos / tau, cosine / tau, space.num_groups).sigmoid().mean(1)
                scores["ants"] = self.weight * scores["ens"] + (1 - self.weight) * scores["vsnl"]  # eq. 13
        return out, Seen(features, id_cos, negatives[0], patches)


def _check_settings(given: dict[str, Any]) -> None:
    """What can be known of settings before anything is loaded; the error names the first that is wrong, and its value."""
    for name in ("id_prompt", "noun_prompt", "adjective_prompt", "sentence_prompt"):
        if not isinstance(given[name], str) or given[name].count("{}") != 1:
            raise ValueError(f"{name} must hold one {{}}, got {given[name]!r}")
    for name in ("model", "pretrained", "label_bank", "text_cache", "spaces"):
        if not isinstance(given[name], str | None) or (name == "model" and not given[name]):
            raise ValueError(f"{name} must be a name or path, got {given[name]!r}")
    check_positive(temperature=given["temperature"], mcm_temperature=given["mcm_temperature"])
    check_counts(**{name: given[name] for name in ("num_groups", "vsnl_groups", "text_batch_size")})
    check_shares(percentile=given["percentile"])
    if not is_number(given["keep"]):
        raise ValueError(f"keep must be a count of at least 1 or a share in (0, 1], got {given['keep']!r}")
    count_of(given["keep"], 1)
    if given["spaces"] and given["label_bank"]:
        raise ValueError(f"spaces hold a label bank of their own: got both {given['spaces']!r} and {given['label_bank']!r}")
    if given["class_names"] is not None:
        checked_class_names(given["class_names"])
