"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from ants_lightning.data.batches import stream_names, test_loader, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.evidence import Evidence, Rows
from ants_lightning.mining import similar_classes
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.guard import Guard
from ants_lightning.module import ANTS
from ants_lightning.scoring import adaptive_weight


class NegativeMemory(L.Callback):
    """Keeps the negative images of the stream, shows them to an MLLM at sync points, and refreshes ENS, VSNL and λ.

    Sync points depend on the global batch index alone; evidence is gathered there once, in stream order. A batch is
    scored with what earlier batches taught (strict history) unless `score_after_refresh`.

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
        bank_size: candidates kept with features.

    Raises:
        ValueError: a setting out of range (it is named).
    """

    def __init__(
        self,
        mllm: MLLM,
        refresh_every: int = 10,
        min_images: int = 200,
        gamma: float = 0.9,
        eta: float = 0.5,
        delta: float = 0.08,
        similar: int = 5,
        ens_size: int = 10_000,
        init: Literal["neglabel", "empty"] = "neglabel",
        weight: Literal["paper", "prequential"] = "prequential",
        score_after_refresh: bool = False,
        persist: bool = False,
        bank_size: int = 10_000,
    ) -> None:
        counts = {"refresh_every": refresh_every, "similar": similar, "ens_size": ens_size, "bank_size": bank_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, share in (("eta", eta), ("delta", delta)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {share}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        for name, choice, choices in (("init", init, ("neglabel", "empty")), ("weight", weight, ("paper", "prequential"))):
            if choice not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {choice!r}")
        self.mllm, self.refresh_every, self.min_images = mllm, refresh_every, min_images
        self.gamma, self.eta, self.delta, self.similar = gamma, eta, delta, similar
        self.ens_size, self.init, self.weight = ens_size, init, weight
        self.score_after_refresh, self.persist, self.bank_size = score_after_refresh, persist, bank_size
        self.evidence: Evidence | None = None
        self.answers: dict[str, list[str]] = {}  # similar names by class: a class is asked once a stream
        self.sentences: list[str] = []
        self._restored = False
        self._guard = Guard(mllm)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the MLLM, and find how many batches every rank has."""
        self.mllm.setup(pl_module.device)
        shared = _gather([int(n) if n != float("inf") else 10**12 for n in trainer.num_test_batches])
        self._common_batches = [min(counts) for counts in zip(*shared, strict=True)]
        self._streams = list(stream_names(trainer))

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0  # type: ignore[override]
    ) -> None:
        """At the first batch of a stream, forget the one before."""
        if batch_idx:
            return
        if not len(pl_module.neglabel):
            raise ValueError("NegativeMemory needs negative labels to start from: give ANTS nouns or adjectives")
        if self.evidence is None or not (self.persist or self._restored):
            self.evidence = Evidence(pl_module.id_text.shape[1], self.gamma, self.eta, self.bank_size)
            self.answers, self.sentences = {}, []
            pl_module.reset_spaces()
            pl_module.ens.capacity = self.ens_size
            if self.init == "neglabel":
                pl_module.ens.push(pl_module.neglabel.labels, pl_module.neglabel.features)
        self._pending: list[Rows] = []
        self._raw = RawImages(test_loader(trainer, dataloader_idx).dataset, pl_module.preprocess, self.bank_size)
        self._lambdas = {"paper": 0.5, "prequential": 0.5}
        self._seen_here = 0
        self._guard.reset()
        self._counts = dict(self._guard.counts)
        if self._restored:
            self._fill_spaces(pl_module)
            self._restored = False
        pl_module.spaces_changed()
        self._publish(pl_module, dataloader_idx)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: ANTS, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0  # type: ignore[override]
    ) -> None:
        """Take the evidence of the batch; at a sync point refresh."""
        index, score = outputs["index"], outputs["id_score"]
        if index is None:  # a foreign loader: ranks take turns, as in Lightning's samplers
            places = self._seen_here + torch.arange(len(score), device=score.device)
            index = places * trainer.world_size + trainer.global_rank
        self._seen_here += len(score)
        owner = torch.full_like(index, trainer.global_rank)
        self._pending.append(Rows(index, score, outputs["prediction"], owner, outputs["features"]))
        self._raw.keep(unpack_batch(batch)[0], index, score < self.gamma)
        if (batch_idx + 1) % self.refresh_every == 0 and batch_idx < self._common_batches[dataloader_idx]:
            self._sync(trainer, pl_module, dataloader_idx)
            if self.score_after_refresh:
                outputs.update(pl_module.score(outputs["features"]))

    def _sync(self, trainer: L.Trainer, pl_module: ANTS, dataloader_idx: int) -> None:
        """Gather the evidence since the last sync point, mine, ask, push, weigh."""
        assert self.evidence is not None  # noqa: S101
        here, self._pending = Rows.join(self._pending), []
        shards = _gather({name: value.cpu() for name, value in vars(here).items()})
        self.evidence.add(Rows.join([Rows(**shard) for shard in shards]))
        if len(self.evidence.history) < self.min_images:
            return
        negative = self.evidence.mine()
        new = negative[~self.evidence.described[negative]]
        self._score_prequentially(pl_module, new)
        self._refresh_spaces(pl_module, new, trainer.global_rank, trainer.world_size)
        self._weigh(pl_module, negative)
        self._publish(pl_module, dataloader_idx)

    def _score_prequentially(self, pl_module: ANTS, new: Tensor) -> None:
        """Score new negative images with the spaces as they are before their own sentences enter.

        While VSNL is empty both scores are `neglabel` or near it, and tell nothing of λ: those images stay unscored.
        """
        evidence = self.evidence
        assert evidence is not None  # noqa: S101
        if not len(new) or not len(pl_module.vsnl):
            return
        scores = pl_module.score(evidence.bank.features[new].to(pl_module.device))["scores"]
        fresh = evidence.prequential.clone()
        pair = torch.stack([scores["ens"], scores["vsnl"]], 1).cpu()
        fresh[new] = torch.where(fresh[new].isnan(), pair, fresh[new])
        evidence.prequential = fresh

    def _refresh_spaces(self, pl_module: ANTS, new: Tensor, rank: int, world: int) -> None:
        """Ask the MLLM for this rank's share, exchange the answers, push ENS (eq. 7) and set VSNL (eq. 11)."""
        evidence = self.evidence
        assert evidence is not None  # noqa: S101
        near = similar_classes(evidence.mean_feature, pl_module.id_text.cpu(), self.delta)
        names = [pl_module.class_names[c] for c in near.tolist()]
        share = [name for name in names if name not in self.answers][rank::world]
        labels = dict(zip(share, self._guard.similar_classes(share, self.similar), strict=True))
        sentences = self._describe(pl_module, new[evidence.bank.owner[new] == rank].tolist())
        said: dict[int, str] = {}
        parts = _gather((sentences, labels, self._guard.counts))
        for some_sentences, some_labels, _ in parts:
            said.update({row: text for row, text in some_sentences.items() if text is not None})
            self.answers.update({name: answer for name, answer in some_labels.items() if answer is not None})
        self._counts = {key: sum(counts[key] for _, _, counts in parts) for key in self._counts}
        evidence.described = evidence.described.index_fill(0, torch.tensor(list(said), dtype=torch.long), True)
        known = {name.lower() for name in pl_module.class_names}
        prompt = pl_module.hparams.sentence_prompt
        texts = [prompt.format(text) for _, text in sorted(said.items()) if text and text.lower() not in known]
        if texts:
            pl_module.ens.push(texts, pl_module.encoder(texts))
        self.sentences = pl_module.ens.labels
        self._set_vsnl(pl_module, names)
        pl_module.spaces_changed()

    def _describe(self, pl_module: ANTS, rows: list[int]) -> dict[int, str | None]:
        """Sentences by row of the bank; "" where the image cannot be had, None where the MLLM failed."""
        assert self.evidence is not None  # noqa: S101
        bank, images, lost = self.evidence.bank, {}, {}
        for row in rows:
            try:
                images[row] = self._raw[int(bank.index[row])]
            except (OSError, ValueError, KeyError) as error:
                lost[row] = ""
                self._guard.failed("reading an image for the MLLM", 1, error)
        avoid = [pl_module.class_names[c] for c in bank.prediction[list(images)].tolist()]
        return {**lost, **dict(zip(images, self._guard.describe(list(images.values()), avoid), strict=True))}

    def _set_vsnl(self, pl_module: ANTS, names: Sequence[str]) -> None:
        known = {name.lower() for name in pl_module.class_names}
        labels = dict.fromkeys(
            pl_module.hparams.id_prompt.format(label)
            for name in names
            for label in self.answers.get(name, [])
            if label.lower() not in known
        )
        pl_module.vsnl.replace([], pl_module.vsnl.features[:0])
        if labels:
            pl_module.vsnl.replace(list(labels), pl_module.encoder(list(labels)))

    def _fill_spaces(self, pl_module: ANTS) -> None:
        """Make the spaces of a restored memory."""
        assert self.evidence is not None  # noqa: S101
        pl_module.reset_spaces()
        pl_module.ens.capacity = self.ens_size
        if self.sentences:
            pl_module.ens.push(self.sentences, pl_module.encoder(self.sentences))
        self._set_vsnl(pl_module, list(self.answers))
        self._weigh(pl_module, self.evidence.mine())

    def _weigh(self, pl_module: ANTS, negative: Tensor) -> None:
        """Both estimates of λ (eq. 14)."""
        evidence = self.evidence
        assert evidence is not None  # noqa: S101
        if len(negative):
            scores = pl_module.score(evidence.bank.features[negative].to(pl_module.device))["scores"]
            self._lambdas["paper"] = adaptive_weight(scores["ens"], scores["vsnl"])
            pairs = evidence.prequential[negative]
            pairs = pairs[~pairs.isnan().any(1)]
            self._lambdas["prequential"] = adaptive_weight(pairs[:, 0], pairs[:, 1])
        pl_module.weight = self._lambdas[self.weight]

    def _publish(self, pl_module: ANTS, dataloader_idx: int) -> None:
        """What results, logs and the progress bar show of the adaptation."""
        assert self.evidence is not None  # noqa: S101
        pl_module.adaptation[self._streams[dataloader_idx]] = {
            "lambda": pl_module.weight,
            "lambda_paper": self._lambdas["paper"],
            "lambda_prequential": self._lambdas["prequential"],
            "gamma": self.evidence.threshold,
            "n_negative_images": int((self.evidence.bank.id_score <= self.evidence.threshold).sum()),
            "n_ens": len(pl_module.ens),
            "n_vsnl": len(pl_module.vsnl),
            **self._counts,
        }

    def state_dict(self) -> dict[str, Any]:
        """The memory of the stream under way."""
        if self.evidence is None:
            return {}
        return {"evidence": self.evidence.state_dict(), "answers": self.answers, "sentences": self.sentences}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next stream with this memory."""
        if state_dict:
            self.evidence = Evidence.from_state_dict(state_dict["evidence"])
            self.answers, self.sentences = state_dict["answers"], state_dict["sentences"]
            self._restored = True


def _gather(value: Any) -> list[Any]:
    """The value of every rank, in order of rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
