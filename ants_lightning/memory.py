"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from ants_lightning.data.batches import test_loaders, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.evidence import Evidence, Rows, join, take
from ants_lightning.mining import similar_classes
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.guard import Guard
from ants_lightning.module import ANTS
from ants_lightning.scoring import adaptive_weight


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
    """

    def __init__(
        self, mllm: MLLM, refresh_every: int = 10, min_images: int = 200, gamma: float = 0.9, eta: float = 0.5,
        delta: float = 0.08, similar: int = 5, ens_size: int = 10_000, init: Literal["neglabel", "empty"] = "neglabel",
        weight: Literal["paper", "prequential"] = "prequential", score_after_refresh: bool = False, persist: bool = False,
        bank_size: int = 10_000,
    ) -> None:  # fmt: skip
        sizes = (refresh_every, similar, ens_size, bank_size)
        if min(sizes) < 1:
            raise ValueError(f"refresh_every, similar, ens_size and bank_size must be at least 1, got {sizes}")
        if not (0 <= gamma <= 1 and 0 < eta <= 1 and 0 < delta <= 1):
            raise ValueError(f"gamma, eta and delta must lie in [0, 1], (0, 1], (0, 1], got {gamma}, {eta}, {delta}")
        if init not in ("neglabel", "empty") or weight not in ("paper", "prequential"):
            raise ValueError(f"unknown init or weight: {init!r}, {weight!r}")
        self.guard = Guard(mllm)
        self.refresh_every, self.min_images, self.gamma, self.eta = refresh_every, min_images, gamma, eta
        self.delta, self.similar, self.ens_size, self.init, self.weight = delta, similar, ens_size, init, weight
        self.score_after_refresh, self.persist, self.bank_size = score_after_refresh, persist, bank_size
        self.evidence = Evidence(0, gamma, eta, bank_size)
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []
        self._fresh = True  # nothing learnt yet that the next stream may keep

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the MLLM, and find how many batches every rank has."""
        self.guard.mllm.setup(pl_module.device)
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
        self._counts = dict(self.guard.counts)
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
        self._refresh(pl_module, new, rank, world)
        self._weigh(pl_module, negative)

    def _score_prequentially(self, pl_module: ANTS, new: Tensor) -> None:
        """Score new negative images before their own sentences enter; not while VSNL is empty: `vsnl` is `neglabel` then."""
        if len(new) and len(pl_module.vsnl):
            scores = pl_module.score(self.evidence.bank["features"][new].to(pl_module.device))["scores"]
            self.evidence.set_prequential(new, torch.stack([scores["ens"], scores["vsnl"]], 1).cpu())

    def _refresh(self, pl_module: ANTS, new: Tensor, rank: int, world: int) -> None:
        """Ask the MLLM for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        evidence = self.evidence
        near = similar_classes(evidence.mean_feature, pl_module.id_text.cpu(), self.delta)
        names = [pl_module.class_names[c] for c in near.tolist()]
        share = [name for name in names if name not in self.answers][rank::world]
        labels = dict(zip(share, self.guard.ask("similar_classes", share, self.similar), strict=True))
        sentences = self._describe(pl_module, new[evidence.bank["owner"][new] == rank])
        parts = _gather((sentences, labels, self.guard.counts))
        said: dict[int, str] = {}
        for some_sentences, some_labels, _ in parts:
            said.update({row: text for row, text in some_sentences.items() if text is not None})
            self.answers.update({name: answer for name, answer in some_labels.items() if answer is not None})
        self._counts = {key: sum(counts[key] for _, _, counts in parts) for key in self._counts}
        evidence.set_described(torch.tensor(list(said), dtype=torch.long))
        prompt = pl_module.hparams["sentence_prompt"]
        texts = [prompt.format(said[row]) for row in sorted(said) if said[row] and not pl_module.is_id_name(said[row])]
        if texts:
            pl_module.ens.push(texts, pl_module.encoder(texts))
        self.sentences = pl_module.ens.labels
        self._set_vsnl(pl_module, names)

    def _describe(self, pl_module: ANTS, rows: Tensor) -> dict[int, str | None]:
        """Sentences by row of the bank; "" where the image cannot be had, None where the MLLM failed."""
        bank, images, lost = self.evidence.bank, {}, {}
        for row in rows.tolist():
            try:
                images[row] = self._raw[int(bank["index"][row])]
            except Exception as error:  # whatever an image decoder throws
                lost[row] = ""
                self.guard.failed("reading an image for the MLLM", 1, error)
        avoid = [pl_module.class_names[c] for c in bank["prediction"][list(images)].tolist()]
        return {**lost, **dict(zip(images, self.guard.ask("describe", list(images.values()), avoid), strict=True))}

    def _set_vsnl(self, pl_module: ANTS, names: list[str]) -> None:
        """Labels similar to these classes, as far as the MLLM has answered; no ID class name among them."""
        found = [label for name in names for label in self.answers.get(name, []) if not pl_module.is_id_name(label)]
        texts = [pl_module.hparams["id_prompt"].format(label) for label in dict.fromkeys(found)]
        pl_module.vsnl.clear()
        if texts:
            pl_module.vsnl.push(texts, pl_module.encoder(texts))
        pl_module.spaces_changed()

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
            "n_ens": len(pl_module.ens), "n_vsnl": len(pl_module.vsnl), **self._counts,
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
