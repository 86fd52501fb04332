"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from PIL.Image import Image
from torch import Tensor

from ants_lightning.data.batches import test_loaders, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.evidence import Evidence, Rows, join, take
from ants_lightning.hygiene import Hygiene, fold
from ants_lightning.mining import similar_classes
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.guard import Guard
from ants_lightning.module import ANTS
from ants_lightning.scoring import adaptive_weight
from ants_lightning.text_space import TextSpace


class NegativeMemory(L.Callback):
    """Keeps the negative images of the stream, shows them to an MLLM at sync points, and refreshes ENS, VSNL and λ.

    Sync points depend on the global batch index alone; evidence is gathered there once, in stream order. A batch is
    scored with what earlier batches taught (strict history) unless `score_after_refresh`. ValueError for a setting out of
    range, and at the first batch where ANTS has no negative labels to start from.

    Args:
        mllm: describes images and names similar classes.
        refresh_every: batches between sync points.
        min_images: no refresh before this many images were seen.
        gamma: γ at first, in [0, 1] (eq. 5).
        eta: η in (0, 1] (eq. 6).
        delta: δ in (0, 1] (eq. 10).
        similar: similar class names asked for per class (eq. 11).
        ens_size: M, the capacity of the ENS queue.
        init: the ENS queue starts with N_nl (`neglabel`), or `empty` (then `ens` is `neglabel` until a sentence comes).
        weight: λ from eq. 14 (`paper`) or from scores before an image's own sentence entered (`prequential`).
        score_after_refresh: score the batch of a sync point again after the refresh, as the authors' code does.
        persist: keep what was learnt from one stream to the next.
        bank_size: candidates kept with their features.
        similar_images: show the MLLM, beside the class name of eq. 11, the negative image of lowest S_nl predicted as it.
        hygiene: drop answers that are an ID class name, also by plural, case, hyphen or WordNet synonym.
        max_id_similarity: drop answers whose text has a larger cosine than this with an ID class; None: none. With CLIP ViT-B/32
            0.95 drops 85 % of other lists' names of ImageNet classes and 5 % of their other names (`tests/benchmarks/hygiene.py`).
        on_failure: when the MLLM raises, go on with the last good spaces (`continue`), or end the run (`raise`).
        record: file of all answers, in `trainer.default_root_dir`; what is in it is not asked again. None: no record.
    """

    def __init__(
        self, mllm: MLLM, refresh_every: int = 10, min_images: int = 200, gamma: float = 0.9, eta: float = 0.5,
        delta: float = 0.08, similar: int = 5, ens_size: int = 10_000, init: Literal["neglabel", "empty"] = "neglabel",
        weight: Literal["paper", "prequential"] = "prequential", score_after_refresh: bool = False, persist: bool = False,
        bank_size: int = 10_000, similar_images: bool = False, hygiene: bool = True, max_id_similarity: float | None = 0.95,
        on_failure: Literal["continue", "raise"] = "continue", record: str | None = "mllm.jsonl",
    ) -> None:  # fmt: skip
        sizes = (refresh_every, similar, ens_size, bank_size)
        if min(sizes) < 1:
            raise ValueError(f"refresh_every, similar, ens_size and bank_size must be at least 1, got {sizes}")
        if not (0 <= gamma <= 1 and 0 < eta <= 1 and 0 < delta <= 1):
            raise ValueError(f"gamma, eta and delta must lie in [0, 1], (0, 1], (0, 1], got {gamma}, {eta}, {delta}")
        if init not in ("neglabel", "empty") or weight not in ("paper", "prequential") or on_failure not in ("continue", "raise"):
            raise ValueError(f"unknown init, weight or on_failure: {init!r}, {weight!r}, {on_failure!r}")
        if max_id_similarity is not None and not -1 <= max_id_similarity <= 1:
            raise ValueError(f"max_id_similarity is a cosine, got {max_id_similarity}")
        self.guard = Guard(mllm)
        self.refresh_every, self.min_images, self.gamma, self.eta = refresh_every, min_images, gamma, eta
        self.delta, self.similar, self.ens_size, self.init, self.weight = delta, similar, ens_size, init, weight
        self.score_after_refresh, self.persist, self.bank_size = score_after_refresh, persist, bank_size
        self.similar_images, self.hygiene, self.max_id_similarity = similar_images, hygiene, max_id_similarity
        self.on_failure, self.record = on_failure, record
        self.evidence = Evidence(0, gamma, eta, bank_size)
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []
        self._fresh = True  # nothing learnt yet that the next stream may keep

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Get the MLLM ready, open the record, and find how many batches every rank has."""
        self.guard.mllm.setup(pl_module.device)
        self.guard.open_record(Path(trainer.default_root_dir) / self.record if self.record else None)
        shared = _gather([float(n) for n in trainer.num_test_batches])
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
            self.evidence = Evidence(pl_module.id_text.shape[1], self.gamma, self.eta, self.bank_size)
            self.answers, self.sentences = {}, pl_module.neglabel.labels if self.init == "neglabel" else []
        elif self.evidence.bank:  # the images of another stream cannot be shown any more
            self.evidence.set_described(torch.arange(len(self.evidence.bank["index"])))
        self._pending: list[Rows] = []
        dataset = list(self._streams.values())[dataloader_idx].dataset
        self._raw = RawImages(dataset, pl_module.preprocess, self.bank_size)
        self._seen_here, self._lambdas = 0, {"paper": 0.5, "prequential": 0.5}
        self.guard.reset()
        self._counts, self._dropped = dict(self.guard.counts), set[str]()
        self._hygiene = Hygiene(pl_module.class_names, pl_module.id_text, self.max_id_similarity) if self.hygiene else None
        pl_module.reset_spaces()
        pl_module.ens.capacity = self.ens_size
        if self.sentences:
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
        self._raw.keep(unpack_batch(batch)[0], index, score < self.gamma)
        if (batch_idx + 1) % self.refresh_every == 0 and batch_idx < self._common_batches[dataloader_idx]:
            self._sync(pl_module, trainer.global_rank, trainer.world_size)
            self._publish(pl_module, dataloader_idx)
            if self.score_after_refresh:
                outputs.update(pl_module.score(outputs["features"]))

    def _sync(self, pl_module: ANTS, rank: int, world: int) -> None:
        """Gather the evidence since the last sync point, mine, ask, push, weigh."""
        here, self._pending = join(self._pending), []
        rows = join(_gather({name: column.cpu() for name, column in here.items()}))
        self.evidence.add(take(rows, rows["index"].argsort(stable=True)))
        self._fresh = False
        if len(self.evidence.history) < self.min_images:
            return
        negative = self.evidence.mine()
        new = negative[~self.evidence.bank["described"][negative]]
        self._score_prequentially(pl_module, new)
        self._refresh(pl_module, negative, new, rank, world)
        self._weigh(pl_module, negative)

    def _score_prequentially(self, pl_module: ANTS, new: Tensor) -> None:
        """Score new negative images before their own sentences enter; not while VSNL is empty: `vsnl` is `neglabel` then."""
        if len(new) and len(pl_module.vsnl):
            scores = pl_module.score(self.evidence.bank["features"][new].to(pl_module.device))["scores"]
            self.evidence.set_prequential(new, torch.stack([scores["ens"], scores["vsnl"]], 1).cpu())

    def _refresh(self, pl_module: ANTS, negative: Tensor, new: Tensor, rank: int, world: int) -> None:
        """Ask the MLLM for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        evidence, guard = self.evidence, self.guard
        near = similar_classes(evidence.mean_feature, pl_module.id_text.cpu(), self.delta).tolist()
        guard.begin_refresh()
        labels = self._find_similar(pl_module, near, negative, rank, world)
        sentences = self._describe(pl_module, new[evidence.bank["owner"][new] == rank])
        parts = _gather((sentences, labels, guard.counts, guard.answered, guard.error))
        said: dict[int, str] = {}
        for some_sentences, some_labels, _, answered, _ in parts:
            said.update({row: text for row, text in some_sentences.items() if text is not None})
            self.answers.update({name: answer for name, answer in some_labels.items() if answer is not None})
            guard.keep(answered, write=rank == 0)
        self._counts = {key: sum(counts[key] for _, _, counts, _, _ in parts) for key in self._counts}
        errors = [f"rank {i}: {error}" for i, (*_, error) in enumerate(parts) if error]
        if errors and self.on_failure == "raise":  # on all ranks, so that none waits for another
            raise RuntimeError("; ".join(errors))
        evidence.set_described(torch.tensor(list(said), dtype=torch.long))
        self._push(pl_module, pl_module.ens, [said[row] for row in sorted(said) if said[row]], "sentence_prompt")
        self.sentences = pl_module.ens.labels
        self._set_vsnl(pl_module, [pl_module.class_names[c] for c in near])

    def _find_similar(
        self, pl_module: ANTS, near: list[int], negative: Tensor, rank: int, world: int
    ) -> dict[str, list[str] | None]:
        """Similar names by class, for this rank's share of the classes not asked for yet; with images, that of their owner."""
        bank, share = self.evidence.bank, dict[int, int | None]()
        for place, c in enumerate(c for c in near if pl_module.class_names[c] not in self.answers):
            rows = negative[bank["prediction"][negative] == c] if self.similar_images else negative[:0]
            row = int(rows[bank["id_score"][rows].argmin()]) if len(rows) else None
            if (place % world if row is None else int(bank["owner"][row])) == rank:
                share[c] = row
        images = self._images([row for row in share.values() if row is not None])
        shown = [images.get(row) for row in share.values()] if self.similar_images else None  # type: ignore[arg-type]
        names = [pl_module.class_names[c] for c in share]
        return dict(zip(names, self.guard.similar_classes(names, self.similar, shown), strict=True))

    def _describe(self, pl_module: ANTS, rows: Tensor) -> dict[int, str | None]:
        """Sentences by row of the bank; "" where the image cannot be had, None where the MLLM failed."""
        images = self._images(rows.tolist())
        avoid = [pl_module.class_names[c] for c in self.evidence.bank["prediction"][list(images)].tolist()]
        said = dict(zip(images, self.guard.describe(list(images.values()), avoid), strict=True))
        return {row: said.get(row, "") for row in rows.tolist()}

    def _images(self, rows: Sequence[int]) -> dict[int, Image]:
        """Images by row of the bank, as far as they can be had."""
        images = {}
        for row in rows:
            try:
                images[row] = self._raw[int(self.evidence.bank["index"][row])]
            except Exception as error:  # whatever an image decoder throws
                self.guard.failed("reading an image for the MLLM", 1, error)
        return images

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

    def _weigh(self, pl_module: ANTS, negative: Tensor) -> None:
        """Both estimates of λ (eq. 14)."""
        if len(negative):
            scores = pl_module.score(self.evidence.bank["features"][negative].to(pl_module.device))["scores"]
            self._lambdas["paper"] = adaptive_weight(scores["ens"], scores["vsnl"])
            pairs = self.evidence.bank["prequential"][negative]
            self._lambdas["prequential"] = adaptive_weight(*pairs[~pairs.isnan().any(1)].unbind(1))
        pl_module.weight = self._lambdas[self.weight]

    def _publish(self, pl_module: ANTS, dataloader_idx: int) -> None:
        """What results, logs and the progress bar show of the adaptation."""
        pl_module.adaptation[list(self._streams)[dataloader_idx]] = {
            "lambda": pl_module.weight, **{f"lambda_{name}": value for name, value in self._lambdas.items()},
            "gamma": self.evidence.threshold, "n_negative_images": self.evidence.n_negative,
            "n_ens": len(pl_module.ens), "n_vsnl": len(pl_module.vsnl), "n_dropped": len(self._dropped),
            **self._counts,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What was learnt from the stream; a later run with `persist` starts from it."""
        return {"evidence": self.evidence.state_dict(), "answers": self.answers, "sentences": self.sentences}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.evidence.load_state_dict(state_dict["evidence"])
        self.answers, self.sentences = state_dict["answers"], state_dict["sentences"]
        self._fresh = False


def _gather(value: Any) -> list[Any]:
    """The value of every rank, in order of rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
