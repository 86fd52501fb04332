"""`Shaper`: what one stream has taught, and how a sync point turns it into ENS, VSNL and λ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ants_lightning.adapt.asking import Asker
from ants_lightning.adapt.bank import Evidence, Rows
from ants_lightning.adapt.hygiene import Hygiene, fold
from ants_lightning.baselines import activated, confident, mean_activation, otsu_threshold
from ants_lightning.health import Health, adaptation_faults
from ants_lightning.method.near_classes import frequent_classes, similar_classes
from ants_lightning.method.weight import adaptive_weight, balanced_scores
from ants_lightning.spaces.text_space import TextSpace

if TYPE_CHECKING:
    from ants_lightning.adapt.memory import NegativeMemory
    from ants_lightning.ants import ANTS

_LAMBDAS = {"paper": 0.5, "prequential": 0.5}
_OWN = ("answers", "sentences", "of_all_classes", "fresh", "learnt", "lambdas", "refreshes", "n_held", "balanced")
_CHUNK = 1024  # images scored at a time


class Shaper:
    """The adaptation to one stream. Attributes are replaced, never edited in place: `state` hands out references.

    Args:
        settings: the callback, of which only the settings are read.
    """

    def __init__(self, settings: NegativeMemory) -> None:
        self.settings = settings
        self.evidence = Evidence(0, settings.gamma, settings.eta, settings.bank_size)
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []
        self.of_all_classes: dict[str, list[str]] = {}  # similar names of every ID class, for the baselines that want them
        self.fresh = True  # nothing learnt yet that the next stream may keep
        self.learnt = {"ens": False, "vsnl": False}  # whether a space holds texts of the MLLM
        self.asker: Asker
        self._clear()

    def _clear(self) -> None:
        """What is counted by stream."""
        self.lambdas, self.refreshes, self.n_held = dict(_LAMBDAS), 0, 0  # n_held: sync points at which the guard held a refresh
        self.health = Health()
        self.balanced = torch.zeros(2, dtype=torch.float64)  # sums of o_ens and o_vsnl over the stream

    def take_up(self, model: ANTS, asker: Asker) -> None:
        """Work with this model and asker from now on."""
        self.asker = asker
        s = self.settings
        self.hygiene = Hygiene(model.class_names, model.id_text, s.max_id_similarity, names=s.hygiene)
        model.ens.capacity = s.ens_size

    def begin(self, model: ANTS, asker: Asker) -> None:
        """A stream begins: forget the one before, unless `persist`."""
        s, start = self.settings, model.start
        if self.fresh or not s.persist:
            classes, dim = model.id_text.shape
            self.evidence = Evidence(dim, s.gamma, s.eta, s.bank_size, s.threshold, classes)
            self.answers, self.sentences = {}, model.neglabel.labels if s.init == "neglabel" else []
            self.learnt = {"ens": False, "vsnl": False}
            if start:
                self.answers, self.sentences = start.answers, start.ens.labels
                self.learnt = {"ens": len(start.ens) > 0, "vsnl": len(start.vsnl) > 0}
        elif self.evidence.bank:  # the images of another stream cannot be shown any more
            self.evidence.set_described(torch.arange(len(self.evidence.bank["index"])))
        self._clear()
        self.take_up(model, asker)
        decided = model.decision.state()
        model.reset_spaces()
        if self.evidence.n_seen:
            model.decision.restore(decided)
        self._ask_for_all_classes(model)
        if self.sentences and model.shaped:
            model.ens.replace(self.sentences, model.encoder(self.sentences))
        if self.answers:
            self._set_vsnl(model, list(self.answers))
        if start and not self.evidence.n_seen:
            self.lambdas = dict.fromkeys((*_LAMBDAS, s.weight), start.weight)
        self._weigh(model, self.evidence.mine())
        model.spaces_changed()
        model.decision.refresh(model)

    def learn(self, model: ANTS, rows: Rows) -> None:
        """A sync point: take the images since the last one, in stream order; mine, ask, push, weigh."""
        s = self.settings
        for baseline in model.baselines.values():
            baseline.learn({name: column.to(model.device) for name, column in rows.items()})  # type: ignore[operator]
        self.evidence.add(rows)
        model.decision.learn(rows["ood_score"])
        self.fresh = False
        if not s.score_after_refresh:
            self.health.scored(len(rows["index"]), self.learnt)
        before = model.ens.labels, model.vsnl.labels
        if not s.score_after_refresh:
            self._balance(model, rows["features"])
        ready = model.shaped and self.evidence.n_seen >= s.min_images
        held = ready and not self.evidence.shows_negatives(s.min_separation)
        self.n_held += held
        if ready and not held:
            negative = self.evidence.mine()
            new = negative[~self.evidence.bank["described"][negative]]
            if len(new) <= s.min_candidates or self.refreshes == s.max_refreshes:
                new = new[:0]
            if len(new):
                self.refreshes += 1
                self.evidence.move_threshold()
            self._score_prequentially(model, new)
            self._refresh(model, negative, new)
            self._rank_ens(model, rows)
            self._weigh(model, negative)
        if s.score_after_refresh:
            self._balance(model, rows["features"])
            self.health.scored(len(rows["index"]), self.learnt)
        self.health.synced(changed=before != (model.ens.labels, model.vsnl.labels))
        model.decision.refresh(model)

    def _score_prequentially(self, model: ANTS, new: Tensor) -> None:
        """Score new negative images before their own sentences enter; not while VSNL is empty: `vsnl` is `neglabel` then."""
        if len(new) and len(model.vsnl):
            self.evidence.set_prequential(new, self._scores(model, new).cpu())

    def _scores(self, model: ANTS, rows: Tensor) -> Tensor:
        """`o_ens, o_vsnl` `(n, 2)` of rows of the bank in the current spaces, some at a time: all at once may take gigabytes."""
        parts = []
        for some in rows.split(_CHUNK):
            scores = model.score_spaces(self.evidence.bank["features"][some].to(model.device))["scores"]
            parts.append(torch.stack([scores["ens"], scores["vsnl"]], 1))
        return torch.cat(parts)

    def _refresh(self, model: ANTS, negative: Tensor, new: Tensor) -> None:
        """Ask the MLLM for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        s, evidence, asker = self.settings, self.evidence, self.asker
        if s.near == "mean":
            near = similar_classes(evidence.mean_feature, model.id_text.cpu(), s.delta).tolist()
        else:
            near = frequent_classes(evidence.predicted, s.delta).tolist()
        asker.guard.begin_refresh()
        unknown = {c: model.class_names[c] for c in near if model.class_names[c] not in self.answers}
        labels = asker.similar_classes(evidence.bank, negative, unknown, s.similar)
        said, similar = asker.exchange(asker.describe(evidence.bank, new, model.class_names), labels)
        self.answers = {**self.answers, **{name: similar[name] for name in unknown.values() if name in similar}}
        evidence.set_described(torch.tensor(list(said), dtype=torch.long))
        if not s.similar_images:
            asker.images.forget(evidence.bank["index"][list(said)].tolist())
        sentences = [said[row] for row in sorted(said) if said[row]]
        self.health.heard([fold(sentence) for sentence in sentences])
        self._refuse_what_is_always_said(model)
        good = [sentence for sentence in sentences if fold(sentence) not in self.health.repeated]
        dropped = self._push(model, model.ens, good, "sentence_prompt")
        self.health.drop_sentences(dropped)
        self.learnt = {**self.learnt, "ens": self.learnt["ens"] or len(good) > len(dropped)}
        self.sentences = model.ens.labels
        self._set_vsnl(model, [model.class_names[c] for c in near])

    def _refuse_what_is_always_said(self, model: ANTS) -> None:
        """Take the answer to most images, and that to most classes, for a refusal: out of the spaces and out of the record."""
        refused = self.health.refuse_sentence()
        if refused:
            keep = torch.tensor([fold(text) != refused for text in model.ens.labels], dtype=torch.bool)
            texts = [text for text, stays in zip(model.ens.labels, keep.tolist(), strict=True) if stays]
            model.ens.replace(texts, model.ens.features[keep.to(model.ens.features.device)])
            self.asker.guard.forget(lambda answer: fold(str(answer)) == refused, "describe", self.asker.rank == 0)
        names = self.health.refuse_names(self.answers)
        said = self.health.repeated
        self.answers = {name: [] if ", ".join(answer) in said else answer for name, answer in self.answers.items()}
        if names:
            self.asker.guard.forget(lambda answer: answer == names, "similar_classes", self.asker.rank == 0)

    def _ask_for_all_classes(self, model: ANTS) -> None:
        """Similar names of every ID class, once a run, for the baselines that want them (EOE)."""
        asking = [baseline for baseline in model.baselines.values() if baseline.asks_similar]
        missing = [name for name in model.class_names if name not in self.of_all_classes]
        if not (asking and missing and model.shaped):
            return
        self.asker.guard.begin_refresh()
        found = self.asker.exchange({}, self.asker.similar_names(missing, self.settings.similar))[1]
        self.of_all_classes = {**self.of_all_classes, **found}
        for baseline in asking:
            baseline.take_similar(model, self.of_all_classes)  # type: ignore[operator]

    def _set_vsnl(self, model: ANTS, names: list[str]) -> None:
        """Labels similar to these classes, as far as the MLLM has answered."""
        model.vsnl.clear()
        self.health.drop_labels(
            self._push(model, model.vsnl, [label for name in names for label in self.answers.get(name, [])], "id_prompt")
        )
        self.learnt = {**self.learnt, "vsnl": len(model.vsnl) > 0}
        model.spaces_changed()

    def _push(self, model: ANTS, space: TextSpace, answers: list[str], prompt: str) -> list[tuple[str, str]]:
        """Push answers as texts; another spelling of a text of the space counts as that. Returns those dropped, with the reason."""
        dropped = [(answer, "are an ID class name") for answer in answers if self.hygiene.is_id_name(answer)]
        good = [answer for answer in answers if not self.hygiene.is_id_name(answer)]
        if good:
            spelling = {fold(text): text for text in space.labels}
            texts = [model.hparams[prompt].format(answer) for answer in good]
            texts = [spelling.setdefault(fold(text), text) for text in texts]
            features = model.encoder(texts)
            far = self.hygiene.far_enough(features).tolist()
            dropped += [(answer, "are close to an ID class") for answer, keep in zip(good, far, strict=True) if not keep]
            space.push([text for text, keep in zip(texts, far, strict=True) if keep], features[far])
        return dropped

    def _rank_ens(self, model: ANTS, rows: Rows) -> None:
        """Rank the ENS queue by the images since the last sync point (`activated`); not while none is surely ID or surely OOD."""
        if self.settings.activated is None or not len(model.ens):
            return
        masks = confident(rows["id_score"], otsu_threshold(self.evidence.history[-20_000:]), gap=0.5)
        positive, negative = (rows["features"][mask].to(model.device) for mask in masks)
        model.ens_ranked = None
        if len(positive) and len(negative):
            texts, tau = (model.id_text, model.ens.features), model.hparams["temperature"]
            activation = mean_activation(negative, *texts, tau) - mean_activation(positive, *texts, tau)
            model.ens_ranked = activated(activation, self.settings.activated)
        model.spaces_changed()

    def _balance(self, model: ANTS, features: Tensor) -> None:
        """Add up the balanced scores of these images; an empty space scores as `neglabel`, as everywhere."""
        if self.settings.weight != "balanced":
            return
        features = features.to(model.device)
        neglabel = model.score_spaces(features)["scores"]["neglabel"]
        ens, vsnl = (space.features if len(space) else model.neglabel.features for space in (model.ens, model.vsnl))
        scores = balanced_scores(features, model.id_text, ens, vsnl, model.hparams["temperature"])
        empty = torch.tensor([not len(model.ens), not len(model.vsnl)], device=scores.device)
        self.balanced = self.balanced + torch.where(empty, neglabel[:, None], scores).double().sum(0).cpu()
        total = float(self.balanced.sum())
        model.weight = float(self.balanced[0]) / total if total else 0.5
        self.lambdas = {**self.lambdas, "balanced": model.weight}

    def _weigh(self, model: ANTS, negative: Tensor) -> None:
        """Both estimates of λ (eq. 14)."""
        if len(negative):
            pairs = self.evidence.bank["prequential"][negative]
            self.lambdas = {
                **self.lambdas,
                "paper": adaptive_weight(*self._scores(model, negative).unbind(1)),
                "prequential": adaptive_weight(*pairs[~pairs.isnan().any(1)].unbind(1)),
            }
        model.weight = self.lambdas.get(self.settings.weight, 0.5)

    def report(self, model: ANTS) -> dict[str, Any]:
        """What results, logs and the progress bar show of the adaptation."""
        counts, s = self.asker.counts, self.settings
        health = self.health.report(counts) | {
            "refreshes": self.refreshes, "images": self.evidence.n_seen, "candidates": self.evidence.n_candidates,
            "refresh_every": s.refresh_every, "min_images": s.min_images, "gamma": s.gamma, "cause": self.asker.cause,
            "learnt": self.learnt,
            **({} if s.min_separation is None else {"held": self.n_held}),
        }  # fmt: skip
        return {
            "lambda": model.weight, **{f"lambda_{name}": value for name, value in self.lambdas.items()},
            "gamma": self.evidence.threshold, "n_negative_images": self.evidence.n_negative, "n_ens": len(model.ens),
            "n_vsnl": len(model.vsnl), "n_dropped": sum(health["dropped"].values()),
            **{name: counts[name] for name in ("mllm_calls", "mllm_recalled", "mllm_failures", "mllm_seconds")},
            **({} if s.min_separation is None else {"n_held": self.n_held}),
            "health": health, "faults": adaptation_faults(health, self._unanswered(model)) if model.shaped else [],
        }  # fmt: skip

    def _unanswered(self, model: ANTS) -> list[str]:
        """Baselines that want similar names of all classes, and got none."""
        asking = [name for name, baseline in model.baselines.items() if baseline.asks_similar]
        return [] if any(self.of_all_classes.values()) else asking

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        own = {name: getattr(self, name) for name in _OWN}
        return {**own, "health": self.health.state(), "evidence": self.evidence.state(), "asker": self.asker.state()}

    def restore(self, model: ANTS, asker: Asker, state: dict[str, Any]) -> None:
        """Become what `state` told; the model's own state is restored already."""
        vars(self).update({name: state[name] for name in _OWN})
        self.health.restore(state["health"])
        self.evidence.restore(state["evidence"])
        asker.restore(state["asker"])
        self.take_up(model, asker)
