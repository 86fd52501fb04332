"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from ants_lightning.asking import Asker, gather
from ants_lightning.baselines import activated, confident, mean_activation, otsu_threshold
from ants_lightning.data.batches import test_loaders, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.evidence import Evidence, Rows, join, take
from ants_lightning.hygiene import Hygiene, fold
from ants_lightning.mining import frequent_classes, similar_classes
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.guard import Guard
from ants_lightning.module import ANTS
from ants_lightning.scoring import adaptive_weight, balanced_scores
from ants_lightning.text_space import TextSpace


class NegativeMemory(L.Callback):
    """Keeps the negative images of the stream, shows them to an MLLM at sync points, and refreshes ENS, VSNL and λ.

    Sync points depend on the global batch index alone; evidence is gathered there once, in stream order. A batch is
    scored with what earlier batches taught (strict history) unless `score_after_refresh`. ValueError for a setting out of
    range, and at the first batch where ANTS has no negative labels to start from.

    Args:
        mllm: describes images and names similar classes. None: no ENS and no VSNL, only baselines that learn from the stream.
        refresh_every: batches between sync points.
        min_images: no refresh before this many images were seen.
        gamma: γ at first, in [0, 1] (eq. 5).
        eta: η in (0, 1] (eq. 6).
        delta: δ in (0, 1] (eq. 10).
        similar: similar class names asked for per class (eq. 11).
        ens_size: M, the capacity of the ENS queue.
        init: the ENS queue starts with N_nl (`neglabel`), or `empty` (then `ens` is `neglabel` until a sentence comes).
        weight: λ from eq. 14 (`paper`), from scores before an image's own sentence entered (`prequential`), or, as in the authors'
            code, from the balanced scores of all images (`balanced`, see `scoring.balanced_scores`).
        score_after_refresh: score the batch of a sync point again after the refresh, as the authors' code does.
        persist: keep what was learnt from one stream to the next.
        bank_size: candidates kept with their features.
        similar_images: show the MLLM, beside the class name of eq. 11, the negative image of lowest S_nl predicted as it.
        hygiene: drop answers that are an ID class name, also by plural, case, hyphen or WordNet synonym.
        max_id_similarity: drop answers whose text has a larger cosine than this with an ID class; None: none. With CLIP ViT-B/32
            0.95 drops 85 % of other lists' names of ImageNet classes and 5 % of their other names (`tests/benchmarks/hygiene.py`).
        on_failure: when the MLLM raises, go on with the last good spaces (`continue`), or end the run (`raise`).
        threshold: γ* by eq. 6 (`paper`) or by the authors' code (`histogram`, see `mining.histogram_threshold`).
        near: V' by eq. 10 (`mean`), or the classes predicted most often (`frequent`), as in the authors' code.
        min_candidates: images are described only when more than this many wait.
        max_refreshes: refreshes of a stream in which images are described; None: all.
        activated: score `ens` by TANL (`baselines.activation_aware_score`) against so many sentences, those that the surely-OOD
            images since the last sync point activate most and the surely-ID ones least (the authors' option has 1,000). None: all,
            by eq. 8.
        record: file of all answers, in `trainer.default_root_dir`; what is in it is not asked again. None: no record.
    """

    def __init__(
        self, mllm: MLLM | None, refresh_every: int = 10, min_images: int = 200, gamma: float = 0.9, eta: float = 0.5,
        delta: float = 0.08, similar: int = 5, ens_size: int = 10_000, init: Literal["neglabel", "empty"] = "neglabel",
        weight: Literal["paper", "prequential", "balanced"] = "prequential", score_after_refresh: bool = False,
        persist: bool = False, bank_size: int = 10_000, similar_images: bool = False, hygiene: bool = True,
        max_id_similarity: float | None = 0.95, on_failure: Literal["continue", "raise"] = "continue",
        threshold: Literal["paper", "histogram"] = "paper", near: Literal["mean", "frequent"] = "mean",
        min_candidates: int = 0, max_refreshes: int | None = None, activated: int | None = None, record: str | None = "mllm.jsonl",
    ) -> None:  # fmt: skip
        given = locals().items()
        self.settings: dict[str, Any] = {name: value for name, value in given if isinstance(value, str | int | float | None)}
        ones = dict.fromkeys(("refresh_every", "similar", "ens_size", "bank_size", "activated"), 1)
        for name, least in {**ones, "min_candidates": 0, "max_refreshes": 0}.items():
            if self.settings[name] is not None and self.settings[name] < least:
                raise ValueError(f"{name} must be at least {least}, got {self.settings[name]}")
        if not (0 <= gamma <= 1 and 0 < eta <= 1 and 0 < delta <= 1):
            raise ValueError(f"gamma, eta and delta must lie in [0, 1], (0, 1], (0, 1], got {gamma}, {eta}, {delta}")
        for name, choice, known in (
            ("init", init, ("neglabel", "empty")), ("weight", weight, ("paper", "prequential", "balanced")),
            ("on_failure", on_failure, ("continue", "raise")), ("threshold", threshold, ("paper", "histogram")),
            ("near", near, ("mean", "frequent")),
        ):  # fmt: skip
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        if max_id_similarity is not None and not -1 <= max_id_similarity <= 1:
            raise ValueError(f"max_id_similarity is a cosine, got {max_id_similarity}")
        self.guard = Guard(mllm)
        self.refresh_every, self.min_images, self.gamma, self.eta = refresh_every, min_images, gamma, eta
        self.delta, self.similar, self.ens_size, self.init, self.weight = delta, similar, ens_size, init, weight
        self.score_after_refresh, self.persist, self.bank_size = score_after_refresh, persist, bank_size
        self.similar_images, self.hygiene, self.max_id_similarity = similar_images, hygiene, max_id_similarity
        self.on_failure, self.record, self.threshold, self.near = on_failure, record, threshold, near
        self.min_candidates, self.max_refreshes, self.activated = min_candidates, max_refreshes, activated
        self.evidence = Evidence(0, gamma, eta, bank_size)
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []
        self._fresh = True  # nothing learnt yet that the next stream may keep

    def on_test_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Get the MLLM ready, open the record, and find how many batches every rank has."""
        pl_module.shaped = self.guard.mllm is not None
        if self.guard.mllm is not None:
            self.guard.mllm.setup(pl_module.device)
        self._of_all_classes: dict[str, list[str]] = {}
        self.guard.open_record(Path(trainer.default_root_dir) / self.record if self.record else None)
        shared = gather([float(n) for n in trainer.num_test_batches])
        self._common_batches = [min(counts) for counts in zip(*shared, strict=True)]
        self._streams = test_loaders(trainer)

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """At the first batch of a stream, forget the one before."""
        if batch_idx:
            return
        if not len(pl_module.neglabel):
            raise ValueError("NegativeMemory needs negative labels to start from: give ANTS nouns or adjectives")
        if self._fresh or not self.persist:
            classes, dim = pl_module.id_text.shape
            self.evidence = Evidence(dim, self.gamma, self.eta, self.bank_size, self.threshold, classes)
            self.answers, self.sentences = {}, pl_module.neglabel.labels if self.init == "neglabel" else []
        elif self.evidence.bank:  # the images of another stream cannot be shown any more
            self.evidence.set_described(torch.arange(len(self.evidence.bank["index"])))
        self._pending: list[Rows] = []
        dataset = list(self._streams.values())[dataloader_idx].dataset
        self._raw = RawImages(dataset, pl_module.preprocess, self.bank_size)
        self._seen_here, self._lambdas, self._refreshes = 0, {"paper": 0.5, "prequential": 0.5}, 0
        self._balanced = torch.zeros(2, dtype=torch.float64)  # sums of o_ens and o_vsnl over the stream
        self._asker = Asker(self.guard, self._raw, trainer.global_rank, trainer.world_size, self.similar_images, self.on_failure)
        self._dropped = set[str]()
        self._hygiene = Hygiene(pl_module.class_names, pl_module.id_text, self.max_id_similarity) if self.hygiene else None
        pl_module.reset_spaces()
        if self._common_batches[dataloader_idx]:
            self._ask_for_all_classes(pl_module)
        pl_module.ens.capacity = self.ens_size
        if self.sentences and pl_module.shaped:
            pl_module.ens.push(self.sentences, pl_module.encoder(self.sentences))
        self._set_vsnl(pl_module, list(self.answers))
        self._weigh(pl_module, self.evidence.mine())
        self._publish(pl_module, dataloader_idx)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the evidence of the batch; at a sync point refresh."""
        index, score = outputs["index"], outputs["id_score"]
        if index is None:  # a foreign loader: ranks take turns, as in Lightning's samplers
            places = self._seen_here + torch.arange(len(score), device=score.device)
            index = places * trainer.world_size + trainer.global_rank
        self._seen_here += len(score)
        rows = {"index": index, "id_score": score, "owner": torch.full_like(index, trainer.global_rank)}
        self._pending.append({**rows, "prediction": outputs["prediction"], "features": outputs["features"]})
        self._raw.keep(unpack_batch(batch)[0], index, score < self.evidence.admitted_below)
        if (batch_idx + 1) % self.refresh_every == 0 and batch_idx < self._common_batches[dataloader_idx]:
            self._sync(pl_module)
            self._publish(pl_module, dataloader_idx)
            if self.score_after_refresh:
                outputs.update(pl_module.score(outputs["features"]))

    def _sync(self, pl_module: ANTS) -> None:
        """Gather the evidence since the last sync point, mine, ask, push, weigh."""
        here, self._pending = join(self._pending), []
        rows = join(gather({name: column.cpu() for name, column in here.items()}))
        rows = take(rows, rows["index"].argsort(stable=True))
        for baseline in pl_module.baselines.values():
            baseline.learn({name: column.to(pl_module.device) for name, column in rows.items()})  # type: ignore[operator]
        self.evidence.add(rows)
        self._fresh = False
        if not self.score_after_refresh:
            self._balance(pl_module, rows["features"])
        if pl_module.shaped and len(self.evidence.history) >= self.min_images:
            negative = self.evidence.mine()
            new = negative[~self.evidence.bank["described"][negative]]
            if len(new) <= self.min_candidates or self._refreshes == self.max_refreshes:
                new = new[:0]
            if len(new):
                self._refreshes += 1
                self.evidence.move_threshold()
            self._score_prequentially(pl_module, new)
            self._refresh(pl_module, negative, new)
            self._rank_ens(pl_module, rows)
            self._weigh(pl_module, negative)
        if self.score_after_refresh:
            self._balance(pl_module, rows["features"])

    def _score_prequentially(self, pl_module: ANTS, new: Tensor) -> None:
        """Score new negative images before their own sentences enter; not while VSNL is empty: `vsnl` is `neglabel` then."""
        if len(new) and len(pl_module.vsnl):
            scores = pl_module.score_spaces(self.evidence.bank["features"][new].to(pl_module.device))["scores"]
            self.evidence.set_prequential(new, torch.stack([scores["ens"], scores["vsnl"]], 1).cpu())

    def _refresh(self, pl_module: ANTS, negative: Tensor, new: Tensor) -> None:
        """Ask the MLLM for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        evidence, asker = self.evidence, self._asker
        if self.near == "mean":
            near = similar_classes(evidence.mean_feature, pl_module.id_text.cpu(), self.delta).tolist()
        else:
            near = frequent_classes(evidence.predicted, self.delta).tolist()
        self.guard.begin_refresh()
        unknown = {c: pl_module.class_names[c] for c in near if pl_module.class_names[c] not in self.answers}
        labels = asker.similar_classes(evidence.bank, negative, unknown, self.similar)
        sentences = asker.describe(evidence.bank, new, pl_module.class_names)
        said: dict[int, str] = {}
        for some_sentences, some_labels in asker.exchange((sentences, labels)):
            said.update({row: text for row, text in some_sentences.items() if text is not None})
            self.answers.update({name: answer for name, answer in some_labels.items() if answer is not None})
        evidence.set_described(torch.tensor(list(said), dtype=torch.long))
        self._push(pl_module, pl_module.ens, [said[row] for row in sorted(said) if said[row]], "sentence_prompt")
        self.sentences = pl_module.ens.labels
        self._set_vsnl(pl_module, [pl_module.class_names[c] for c in near])

    def _ask_for_all_classes(self, pl_module: ANTS) -> None:
        """Similar names of every ID class, once a run, for the baselines that want them (EOE)."""
        asking = [baseline for baseline in pl_module.baselines.values() if baseline.asks_similar]
        missing = [name for name in pl_module.class_names if name not in self._of_all_classes]
        if not (asking and missing and pl_module.shaped):
            return
        self.guard.begin_refresh()
        for part in self._asker.exchange(self._asker.similar_names(missing, self.similar)):
            self._of_all_classes.update({name: answer for name, answer in part.items() if answer is not None})
        for baseline in asking:
            baseline.take_similar(pl_module, self._of_all_classes)  # type: ignore[operator]

    def _set_vsnl(self, pl_module: ANTS, names: list[str]) -> None:
        """Labels similar to these classes, as far as the MLLM has answered."""
        pl_module.vsnl.clear()
        self._push(pl_module, pl_module.vsnl, [label for name in names for label in self.answers.get(name, [])], "id_prompt")
        pl_module.spaces_changed()

    def _push(self, pl_module: ANTS, space: TextSpace, answers: list[str], prompt: str) -> None:
        """Push answers as texts, without those that hygiene drops; another spelling of a text of the space counts as that."""
        good = [answer for answer in answers if not (self._hygiene and self._hygiene.is_id_name(answer))]
        self._dropped.update(set(answers) - set(good))
        spelling = {fold(text): text for text in space.labels}
        texts = [pl_module.hparams[prompt].format(answer) for answer in good]
        texts = [spelling.setdefault(fold(text), text) for text in texts]
        if texts:
            features = pl_module.encoder(texts)
            far = self._hygiene.far_enough(features).tolist() if self._hygiene else [True] * len(texts)
            self._dropped.update(answer for answer, keep in zip(good, far, strict=True) if not keep)
            space.push([text for text, keep in zip(texts, far, strict=True) if keep], features[far])

    def _rank_ens(self, pl_module: ANTS, rows: Rows) -> None:
        """Rank the ENS queue by the images since the last sync point (`activated`); not while none is surely ID or surely OOD."""
        if self.activated is None or not len(pl_module.ens):
            return
        history = self.evidence.history[-20_000:]
        masks = confident(rows["id_score"], otsu_threshold(history), gap=0.5)
        positive, negative = (rows["features"][mask].to(pl_module.device) for mask in masks)
        pl_module.ens_ranked = None
        if len(positive) and len(negative):
            texts, tau = (pl_module.id_text, pl_module.ens.features), pl_module.hparams["temperature"]
            activation = mean_activation(negative, *texts, tau) - mean_activation(positive, *texts, tau)
            pl_module.ens_ranked = activated(activation, self.activated)
        pl_module.spaces_changed()

    def _balance(self, pl_module: ANTS, features: Tensor) -> None:
        """Add up the balanced scores of these images; an empty space scores as `neglabel`, as everywhere."""
        if self.weight != "balanced":
            return
        features = features.to(pl_module.device)
        neglabel = pl_module.score_spaces(features)["scores"]["neglabel"]
        ens, vsnl = (space.features if len(space) else pl_module.neglabel.features for space in (pl_module.ens, pl_module.vsnl))
        scores = balanced_scores(features, pl_module.id_text, ens, vsnl, pl_module.hparams["temperature"])
        empty = torch.tensor([not len(pl_module.ens), not len(pl_module.vsnl)], device=scores.device)
        self._balanced = self._balanced + torch.where(empty, neglabel[:, None], scores).double().sum(0).cpu()
        total = float(self._balanced.sum())
        pl_module.weight = self._lambdas["balanced"] = float(self._balanced[0]) / total if total else 0.5

    def _weigh(self, pl_module: ANTS, negative: Tensor) -> None:
        """Both estimates of λ (eq. 14)."""
        if len(negative):
            scores = pl_module.score_spaces(self.evidence.bank["features"][negative].to(pl_module.device))["scores"]
            self._lambdas["paper"] = adaptive_weight(scores["ens"], scores["vsnl"])
            pairs = self.evidence.bank["prequential"][negative]
            self._lambdas["prequential"] = adaptive_weight(*pairs[~pairs.isnan().any(1)].unbind(1))
        pl_module.weight = self._lambdas.get(self.weight, 0.5)

    def _publish(self, pl_module: ANTS, dataloader_idx: int) -> None:
        """What results, logs and the progress bar show of the adaptation."""
        pl_module.adaptation[list(self._streams)[dataloader_idx]] = {
            "lambda": pl_module.weight, **{f"lambda_{name}": value for name, value in self._lambdas.items()},
            "gamma": self.evidence.threshold, "n_negative_images": self.evidence.n_negative,
            "n_ens": len(pl_module.ens), "n_vsnl": len(pl_module.vsnl), "n_dropped": len(self._dropped),
            **self._asker.counts,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What was learnt from the stream; a later run with `persist` starts from it."""
        return {"evidence": self.evidence.state_dict(), "answers": self.answers, "sentences": self.sentences}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.evidence.load_state_dict(state_dict["evidence"])
        self.answers, self.sentences = state_dict["answers"], state_dict["sentences"]
        self._fresh = False
