"""`Refresher`: what one stream has taught, and how a sync point turns it into ENS, VSNL and λ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ants_lightning.adapt.asking import Asker
from ants_lightning.adapt.bank import MemoryBank, Rows
from ants_lightning.adapt.hygiene import Hygiene, fold
from ants_lightning.adapt.settings import MemorySettings
from ants_lightning.adapt.weighing import Weighing, scores_of
from ants_lightning.ants import ANTS
from ants_lightning.clip.vocabulary import in_prompt
from ants_lightning.health import Health, adaptation_faults
from ants_lightning.method.activation import activated, confident, mean_activation
from ants_lightning.method.near_classes import frequent_classes, near_classes
from ants_lightning.method.otsu import otsu_cut
from ants_lightning.spaces.text_space import TextSpace

_OWN = ("answers", "sentences", "of_all_classes", "fresh", "learnt", "refreshes", "n_held")


class Refresher:
    """The adaptation to one stream.

    Attributes are replaced, never edited in place, since `state` hands out references.

    Args:
        settings: of the memory.
    """

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings
        self.bank = MemoryBank(0, settings.mining)
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []  # of the ENS queue
        self.of_all_classes: dict[str, list[str]] = {}  # similar names of every ID class, for baselines
        self.fresh = True  # nothing learnt yet that the next stream may keep
        self.learnt = {"ens": False, "vsnl": False}  # whether a space holds texts of the MLLM
        self.model: ANTS
        self.asker: Asker
        self._clear()

    def _clear(self) -> None:
        """What is counted by stream."""
        self.weighing = Weighing(self.settings.weight)
        self.refreshes = 0
        self.n_held = 0  # sync points at which `min_separation` held a refresh
        self.health = Health()

    def begin_run(self) -> None:
        """A run begins: what was asked for all classes is asked again."""
        self.of_all_classes = {}

    def _take_up(self, model: ANTS, asker: Asker) -> None:
        """Work with this model and asker from now on."""
        self.model, self.asker, self.spaces = model, asker, model.spaces
        hygiene = self.settings.hygiene
        id_text = model.spaces.id_text
        self.hygiene = Hygiene(model.class_names, id_text, hygiene.max_id_similarity, names=hygiene.names)
        model.spaces.ens.limit(self.settings.ens.size)

    def begin(self, model: ANTS, asker: Asker) -> None:
        """A stream begins: forget the one before, unless `persist`."""
        settings, start = self.settings, model.spaces.start
        if self.fresh or not settings.persist:
            classes, dim = model.spaces.id_text.shape
            self.bank = MemoryBank(dim, settings.mining, classes)
            self.answers = {}
            self.sentences = model.spaces.neglabel.labels if settings.ens.init == "neglabel" else []
            self.learnt = {"ens": False, "vsnl": False}
            if start:
                self.answers, self.sentences = start.answers, start.ens.labels
                self.learnt = {"ens": len(start.ens) > 0, "vsnl": len(start.vsnl) > 0}
        else:
            self.bank.end_stream()
        self._clear()
        self._take_up(model, asker)
        model.reset(keep_decision=self.bank.n_seen > 0)
        self._ask_for_all_classes()
        if self.sentences and self.spaces.adapted:
            self.spaces.ens.replace(self.sentences, model.encoder(self.sentences))
        if self.answers:
            self._set_vsnl(list(self.answers))
        if start and not self.bank.n_seen:
            self.weighing = Weighing(settings.weight, start.lambda_)
        self.weighing.weigh(self.spaces, self.bank, self.bank.mine())

    def learn(self, rows: Rows) -> None:
        """A sync point: take the images since the last one, in stream order; mine, ask, push, weigh."""
        schedule, again = self.settings.schedule, self.settings.schedule.score_after_refresh
        here = {name: column.to(self.model.device) for name, column in rows.items()}
        self.model.baselines.learn(here)
        self.bank.add(rows)
        self.model.decision.learn(rows["ood_score"])
        self.fresh = False
        before = self.spaces.ens.labels, self.spaces.vsnl.labels
        if not again:
            self._count_scored(rows)
        if self.spaces.adapted and self.bank.n_seen >= schedule.min_images:
            if self.bank.shows_negatives(schedule.min_separation):
                self._refresh(rows)
            else:
                self.n_held += 1
        if again:
            self._count_scored(rows)
        self.health.synced(changed=before != (self.spaces.ens.labels, self.spaces.vsnl.labels))

    def _count_scored(self, rows: Rows) -> None:
        """These images were scored in the spaces of now."""
        self.health.scored(len(rows["index"]), self.learnt)
        self.weighing.balance(self.spaces, rows["features"])

    def _refresh(self, rows: Rows) -> None:
        """Mine X_neg, ask the MLLM about what is new in it, and set ENS, VSNL and λ."""
        schedule = self.settings.schedule
        negative = self.bank.mine()
        new = negative[~self.bank.rows["described"][negative]]
        if len(new) <= schedule.min_candidates or self.refreshes == schedule.max_refreshes:
            new = new[:0]
        if len(new):
            self.refreshes += 1
            self.bank.move_gamma_star()
        if len(new) and len(self.spaces.vsnl):  # while it is empty, `vsnl` is `neglabel`
            before = scores_of(self.spaces, self.bank, new)  # their own sentences enter
            self.bank.set_prequential(new, before.cpu())
        self._ask(negative, new)
        self._rank_ens(rows)
        self.weighing.weigh(self.spaces, self.bank, negative)

    def _ask(self, negative: Tensor, new: Tensor) -> None:
        """Ask for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        vsnl, bank, asker, names = self.settings.vsnl, self.bank, self.asker, self.model.class_names
        if vsnl.choose == "mean":
            near = near_classes(bank.mean_feature, self.spaces.id_text.cpu(), vsnl.delta).tolist()
        else:
            near = frequent_classes(bank.predicted, vsnl.delta).tolist()
        asker.guard.begin_refresh()
        unknown = {c: names[c] for c in near if names[c] not in self.answers}
        labels = asker.similar_classes(bank.rows, negative, unknown, vsnl.names)
        said, similar = asker.exchange(asker.describe(bank.rows, new, names), labels)
        self.answers = {
            **self.answers,
            **{name: similar[name] for name in unknown.values() if name in similar},
        }
        bank.set_described(torch.tensor(list(said), dtype=torch.long))
        if not vsnl.show_images:
            asker.images.forget(bank.rows["index"][list(said)].tolist())
        self._set_ens([said[row] for row in sorted(said) if said[row]])
        self._set_vsnl([names[c] for c in near])

    def _set_ens(self, sentences: list[str]) -> None:
        """Push sentences, but not those that the MLLM says of most images."""
        self.health.heard([fold(sentence) for sentence in sentences])
        self._refuse_what_is_always_said()
        good = [sentence for sentence in sentences if fold(sentence) not in self.health.repeated]
        dropped = self._push(self.spaces.ens, good, self.model.prompts.sentence)
        self.health.drop_sentences(dropped)
        self.learnt = {**self.learnt, "ens": self.learnt["ens"] or len(good) > len(dropped)}
        self.sentences = self.spaces.ens.labels

    def _refuse_what_is_always_said(self) -> None:
        """Take the answer to most images, and to most classes, for a refusal.

        It leaves the spaces and the record.
        """
        ens, forget, writes = self.spaces.ens, self.asker.guard.forget, self.asker.rank == 0
        if refused := self.health.refuse_sentence():
            keep = [place for place, text in enumerate(ens.labels) if fold(text) != refused]
            ens.replace([ens.labels[place] for place in keep], ens.features[keep])
            forget(lambda answer: fold(str(answer)) == refused, "describe", writes)
        names = self.health.refuse_names(self.answers)
        said = self.health.repeated
        self.answers = {
            name: [] if ", ".join(answer) in said else answer for name, answer in self.answers.items()
        }
        if names:
            forget(lambda answer: answer == names, "similar_classes", writes)

    def _ask_for_all_classes(self) -> None:
        """Similar names of every ID class, once a run, for the scores that want them (EOE)."""
        model = self.model
        missing = [name for name in model.class_names if name not in self.of_all_classes]
        if not (model.baselines.asking_similar and missing and self.spaces.adapted):
            return
        self.asker.guard.begin_refresh()
        found = self.asker.exchange({}, self.asker.similar_names(missing, self.settings.vsnl.names))[1]
        self.of_all_classes = {**self.of_all_classes, **found}
        model.baselines.take_similar(self._similar_text())

    def _similar_text(self) -> Tensor:
        """Features `(L, d)` of the similar names of all classes.

        No two are spellings of one name, and none is the name of an ID class.
        """
        model = self.model
        labels = [label for name in model.class_names for label in self.of_all_classes.get(name, ())]
        hygiene = Hygiene(model.class_names, self.spaces.id_text, None)
        texts = in_prompt(model.prompts.id, hygiene.distinct(labels))
        return model.encoder(texts) if texts else self.spaces.id_text[:0]

    def _set_vsnl(self, names: list[str]) -> None:
        """Labels similar to these classes, as far as the MLLM has answered."""
        self.spaces.vsnl.clear()
        labels = [label for name in names for label in self.answers.get(name, [])]
        self.health.drop_labels(self._push(self.spaces.vsnl, labels, self.model.prompts.id))
        self.learnt = {**self.learnt, "vsnl": len(self.spaces.vsnl) > 0}

    def _push(self, space: TextSpace, answers: list[str], prompt: str) -> list[tuple[str, str]]:
        return self.hygiene.push(space, answers, prompt, self.model.encoder)

    def _rank_ens(self, rows: Rows) -> None:
        """Rank the ENS queue by the images since the last sync point (`ens.activated`).

        Nothing happens unless some of them are surely ID and some surely OOD.
        """
        count, ens = self.settings.ens.activated, self.spaces.ens
        if count is None or not len(ens):
            return
        masks = confident(rows["id_score"], otsu_cut(self.bank.history[-20_000:]), gap=0.5)
        positive, negative = (rows["features"][mask].to(self.model.device) for mask in masks)
        self.spaces.rank_ens(None)
        if len(positive) and len(negative):
            texts, tau = (self.spaces.id_text, ens.features), self.spaces.temperature
            activation = mean_activation(negative, *texts, tau) - mean_activation(positive, *texts, tau)
            self.spaces.rank_ens(activated(activation, count))

    def report(self) -> dict[str, Any]:
        """What results, logs and the progress bar show of the adaptation."""
        counts, schedule, spaces = self.asker.counts, self.settings.schedule, self.spaces
        health = self.health.report(counts) | {
            "refreshes": self.refreshes,
            "images": self.bank.n_seen,
            "candidates": self.bank.n_candidates,
            "every": schedule.every,
            "min_images": schedule.min_images,
            "gamma": self.settings.mining.gamma,
            "cause": self.asker.cause,
            "learnt": self.learnt,
        }
        told = {
            "lambda": spaces.lambda_,
            **{f"lambda_{name}": value for name, value in self.weighing.lambdas.items()},
            "gamma": self.bank.gamma_star,
            "n_negative_images": self.bank.n_negative,
            "n_ens": len(spaces.ens),
            "n_vsnl": len(spaces.vsnl),
            "n_dropped": sum(health["dropped"].values()),
            **{
                name: counts[name]
                for name in ("mllm_calls", "mllm_recalled", "mllm_failures", "mllm_seconds")
            },
        }
        if schedule.min_separation is not None:
            health["held"] = told["n_held"] = self.n_held
        faults = adaptation_faults(health, self._unanswered()) if spaces.adapted else []
        return {**told, "health": health, "faults": faults}

    def _unanswered(self) -> list[str]:
        """Scores that want similar names of all classes, and got none."""
        return [] if any(self.of_all_classes.values()) else self.model.baselines.asking_similar

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            **own,
            **{name: getattr(self, name).state() for name in ("health", "bank", "weighing", "asker")},
        }

    def restore(self, model: ANTS, asker: Asker, state: dict[str, Any]) -> None:
        """Become what `state` told; the model's own state is restored already."""
        for name in _OWN:
            setattr(self, name, state[name])
        self.health.restore(state["health"])
        self.bank.restore(state["bank"])
        self.weighing.restore(state["weighing"])
        asker.restore(state["asker"])
        self._take_up(model, asker)

    def persisted(self) -> dict[str, Any]:
        """What a later run with `persist` starts from."""
        return {"bank": self.bank.state(), "answers": self.answers, "sentences": self.sentences}

    def persist(self, state: dict[str, Any]) -> None:
        """Take what `persisted` told."""
        self.bank.restore(state["bank"])
        self.answers, self.sentences, self.fresh = state["answers"], state["sentences"], False
