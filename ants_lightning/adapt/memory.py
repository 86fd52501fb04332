"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

import logging
import math
from typing import Any, Literal

import lightning as L
import torch

from ants_lightning.adapt.asking import Asker
from ants_lightning.adapt.bank import Evidence, Rows, join, take
from ants_lightning.adapt.refresh import Shaper
from ants_lightning.ants import ANTS
from ants_lightning.common.run_folder import RunFolder, file_name, run_folder
from ants_lightning.common.settings import check_flags, check_whole, plain, plain_path
from ants_lightning.data.batches import dataset_of, stream_loaders, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.decide.threshold import decisive
from ants_lightning.distributed import gather_json, gather_rows
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.first_question import ask_first
from ants_lightning.mllm.guard import Guard
from ants_lightning.spaces.folder import FILES, files_of

logger = logging.getLogger(__name__)


class NegativeMemory(L.Callback):
    """Keeps the negative images of the stream, shows them to an MLLM at sync points, and refreshes ENS, VSNL and λ.

    Sync points depend on the global batch index alone; evidence is gathered there once, in stream order: W ranks with batches of B
    end as one with W·B. There is one every `refresh_every` batches, in a stream of no more batches than that one in its middle, and
    one at the end of each stream. A batch is scored with what earlier batches taught (strict history) unless `score_after_refresh`.
    Before the first batch the MLLM is asked a question (`mllm.first_question`): a RuntimeError where it cannot answer.
    `trainer.predict` adapts as `trainer.test` does. The spaces that a stream ended with are kept in
    `<trainer.default_root_dir>/spaces/<stream>` (`ANTS(spaces=…)`). ValueError for a setting out of range, and at the first batch
    where ANTS has no negative labels to start from.

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
        on_failure: when the MLLM raises, go on with the last good spaces, but do not begin where it cannot answer the question
            before the stream (`check`); begin even then, with a warning (`continue`); or end the run (`raise`).
        threshold: γ* by eq. 6 (`paper`) or by the authors' code (`histogram`, see `mining.histogram_threshold`).
        near: V' by eq. 10 (`mean`), or the classes predicted most often (`frequent`), as in the authors' code.
        min_candidates: images are described only when more than this many wait.
        max_refreshes: refreshes of a stream in which images are described; None: all.
        activated: score `ens` by TANL (`baselines.activation_aware_score`) against so many sentences, those that the surely-OOD
            images since the last sync point activate most and the surely-ID ones least (the authors' option has 1,000). None: all,
            by eq. 8.
        min_separation: a guard, no refresh while the newest 1,000 images look like nothing but ID (`mining.shows_negatives`); None:
            off. What to set is a property of the model and the classes: docs/imbalance.md.
        record: file of all answers, in `trainer.default_root_dir`; what is in it is not asked again. None: no record.
        adapt: False: nothing is learnt and no MLLM is needed or loaded; the spaces stay as `ANTS(spaces=…)` has them.
    """

    refresh_every: int  # these are the arguments, as plain Python
    min_images: int
    gamma: float
    eta: float
    delta: float
    similar: int
    ens_size: int
    init: str
    weight: str
    score_after_refresh: bool
    persist: bool
    bank_size: int
    similar_images: bool
    hygiene: bool
    max_id_similarity: float | None
    on_failure: str
    threshold: Literal["paper", "histogram"]
    near: str
    min_candidates: int
    max_refreshes: int | None
    activated: int | None
    min_separation: float | None
    record: str | None
    adapt: bool

    def __init__(
        self, mllm: MLLM | None, refresh_every: int = 10, min_images: int = 200, gamma: float = 0.9, eta: float = 0.5,
        delta: float = 0.08, similar: int = 5, ens_size: int = 10_000, init: Literal["neglabel", "empty"] = "neglabel",
        weight: Literal["paper", "prequential", "balanced"] = "prequential", score_after_refresh: bool = False,
        persist: bool = False, bank_size: int = 10_000, similar_images: bool = False, hygiene: bool = True,
        max_id_similarity: float | None = 0.95, on_failure: Literal["check", "continue", "raise"] = "check",
        threshold: Literal["paper", "histogram"] = "paper", near: Literal["mean", "frequent"] = "mean",
        min_candidates: int = 0, max_refreshes: int | None = None, activated: int | None = None,
        min_separation: float | None = None, record: str | None = "mllm.jsonl", adapt: bool = True,
    ) -> None:  # fmt: skip
        given = {name: plain(value) for name, value in locals().items() if name not in ("self", "mllm")}
        record = given["record"] = plain_path(record)
        self.settings: dict[str, Any] = given
        ones = ("refresh_every", "similar", "ens_size", "bank_size", "activated")
        check_whole(1, **{name: given[name] for name in ones if given[name] is not None})
        others = ("min_candidates", "max_refreshes", "min_images")
        check_whole(0, **{name: given[name] for name in others if given[name] is not None})
        flags = ("score_after_refresh", "persist", "similar_images", "hygiene", "adapt")
        check_flags(**{name: given[name] for name in flags})
        if not (0 <= gamma <= 1 and 0 < eta <= 1 and 0 < delta <= 1):
            raise ValueError(f"gamma, eta and delta must lie in [0, 1], (0, 1], (0, 1], got {gamma}, {eta}, {delta}")
        for name, choice, known in (
            ("init", init, ("neglabel", "empty")), ("weight", weight, ("paper", "prequential", "balanced")),
            ("on_failure", on_failure, ("check", "continue", "raise")), ("threshold", threshold, ("paper", "histogram")),
            ("near", near, ("mean", "frequent")),
        ):  # fmt: skip
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        if max_id_similarity is not None and not -1 <= max_id_similarity <= 1:
            raise ValueError(f"max_id_similarity is a cosine, got {max_id_similarity}")
        if min_separation is not None and not 0 <= min_separation <= 1:
            raise ValueError(f"min_separation must lie in [0, 1], got {min_separation}")
        self.guard = Guard(mllm if adapt else None)
        vars(self).update(given)
        self.shaper = Shaper(self)
        self.stream = -1  # which one is running
        self._folder: RunFolder | None = None  # None: nothing is written

    def setup(self, trainer: L.Trainer, pl_module: ANTS, stage: str) -> None:  # type: ignore[override]
        """Claim the folder of the run; one that cannot be written costs the record and the spaces, not the run."""
        self._folder = None
        if not self.adapt or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = run_folder(trainer)
        try:
            folder.claim(self)
        except OSError as error:
            logger.warning("answers and spaces are not kept: %s", error)
        else:
            self._folder = folder

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the folder."""
        if self._folder is not None:
            self._folder.release(self)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Free the folder."""
        self.teardown(trainer, pl_module, "test")

    def on_test_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Get the MLLM ready, open the record, and find how many batches every rank has."""
        self.stream = -1
        if not self.adapt:
            return
        self._loaders = stream_loaders(trainer)
        pl_module.shaped = self.guard.mllm is not None
        if self.guard.mllm is not None:
            self.guard.mllm.setup(pl_module.device)
            self._ask_first(pl_module.class_names[0])
        self.guard.open_record(self._folder.path / self.record if self.record and self._folder else None)
        counts = trainer.num_predict_batches if trainer.predicting else trainer.num_test_batches
        self._batches = [float(n) for n in counts]  # of each stream, here
        self._most = [max(of) for of in zip(*gather_json(self._batches), strict=True)]  # of any rank
        self.shaper.of_all_classes = {}
        self._spared = set[str]()
        if trainer.is_global_zero and pl_module.shaped and self._folder:
            for name in self._loaders:
                self._check_spaces(self._folder, name)

    def _check_spaces(self, folder: RunFolder, name: str) -> None:
        """Spaces in the folder of a stream that people edited since, or put there, stay: said before the first batch."""
        try:
            folder.check_folder(_spaces_of(name), FILES)
        except OSError as error:
            self._spared.add(name)
            logger.warning("the spaces of stream %r will not be kept: %s", name, error)

    def _ask_first(self, name: str) -> None:
        """Refuse to begin with an MLLM that cannot answer; on all ranks, so that none waits for another."""
        try:
            with self.guard.question():
                why, slow = ask_first(self.guard.mllm, name, self.similar), ""
        except TimeoutError as error:
            why, slow = "", f"TimeoutError: {error}"
        whys = [f"rank {i}: {one}" for i, one in enumerate(gather_json(why)) if one]
        if whys and self.on_failure != "continue":
            raise RuntimeError(
                f"the MLLM cannot answer, so nothing would be learnt from the streams: {'; '.join(whys)}. Mend it, leave out "
                "NegativeMemory to evaluate MCM and NegLabel alone, or run all the same with NegativeMemory(on_failure='continue')"
            )
        if whys or slow:
            logger.warning("before the stream the MLLM gave no answer; the run goes on all the same: %s", slow or "; ".join(whys))

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """At the first batch of a stream, end the one before and forget it."""
        if batch is not None and self.adapt:
            self._advance(trainer, pl_module, dataloader_idx)

    def _advance(self, trainer: L.Trainer, pl_module: ANTS, to: int) -> None:
        """End and begin streams until `to` runs; also those of which this rank has no batch, for the others exchange in them."""
        while self.stream < to:
            self._end_stream(trainer, pl_module)
            if self.stream == -1 and not len(pl_module.neglabel):
                raise ValueError("NegativeMemory needs negative labels to start from: give ANTS nouns or adjectives")
            self.stream += 1
            self._pending: list[Rows] = []
            self.shaper.begin(pl_module, self._make_asker(trainer, pl_module))
            self._publish(pl_module)

    @property
    def _interval(self) -> int:
        """Batches from one sync point of the running stream to the next: a short stream has one in its middle."""
        most = self._most[self.stream]
        return self.refresh_every if most > self.refresh_every else math.ceil(most / 2) or 1

    def _make_asker(self, trainer: L.Trainer, pl_module: ANTS) -> Asker:
        loader = list(self._loaders.values())[self.stream]
        dataset = loader if dataset_of(loader) is None else dataset_of(loader)
        self._raw = RawImages(dataset, pl_module.preprocess, self.bank_size if self.guard.mllm is not None else 0)
        return Asker(self.guard, self._raw, trainer.global_rank, trainer.world_size, self.similar_images, self.on_failure)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the evidence of the batch; at a sync point refresh."""
        if outputs is None or not self.adapt:
            return
        index, score = outputs["index"], outputs["id_score"]
        self._pending.append({
            "index": index, "id_score": score, "owner": torch.full_like(index, trainer.global_rank),
            "prediction": outputs["prediction"], "features": outputs["features"], "ood_score": decisive(outputs["scores"]),
        })  # fmt: skip
        images = unpack_batch(batch)[0] if outputs["kept"] is None else unpack_batch(batch)[0][outputs["kept"]]
        self._raw.keep(images, index, score < self.shaper.evidence.admitted_below)
        if (batch_idx + 1) % self._interval == 0:
            self._sync(pl_module)
            if self.score_after_refresh:
                outputs.update(pl_module.decide(pl_module.score(outputs["features"])))

    def _sync(self, pl_module: ANTS) -> None:
        """Gather the evidence since the last sync point, in stream order, and learn from it."""
        here, self._pending = join([self._no_rows(pl_module), *self._pending]), []
        rows = join(gather_rows(here))
        self.shaper.learn(pl_module, take(rows, rows["index"].argsort(stable=True)))
        self._publish(pl_module)

    def _no_rows(self, pl_module: ANTS) -> Rows:
        """No image: what a rank without a batch gives."""
        number = torch.empty(0, dtype=torch.long, device=pl_module.device)
        score = torch.empty(0, device=pl_module.device)
        features = pl_module.id_text[:0]
        return {"index": number, "id_score": score, "owner": number, "prediction": number, "features": features, "ood_score": score}

    def _end_stream(self, trainer: L.Trainer, pl_module: ANTS) -> None:
        """The sync points of batches that only other ranks had, and one for what is left; then keep the spaces."""
        if self.stream < 0:
            return
        here, most, interval = self._batches[self.stream], self._most[self.stream], self._interval
        unsized = math.isinf(most)  # on one rank: several share sized streams alone
        left = int(bool(self._pending)) if unsized else math.ceil(most / interval) - int(here // interval)
        for _ in range(left):
            self._sync(pl_module)
        name = list(self._loaders)[self.stream]
        for fault in pl_module.adaptation[name]["faults"] if trainer.is_global_zero else ():
            logger.warning("stream %r: %s", name, fault["text"])
        if trainer.is_global_zero and pl_module.shaped and self._folder and name not in self._spared:
            try:
                self._folder.write_folder(_spaces_of(name), files_of(pl_module, self.shaper.answers), FILES)
            except (OSError, ValueError) as error:  # a full disk, or files of others there
                logger.warning("the spaces of stream %r could not be kept: %s", name, error)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """End the last stream."""
        if self.adapt:
            self._advance(trainer, pl_module, len(self._batches) - 1)
            self._end_stream(trainer, pl_module)

    on_predict_start = on_test_start  # type: ignore[assignment]
    on_predict_batch_start = on_test_batch_start  # type: ignore[assignment]
    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]
    on_predict_epoch_end = on_test_epoch_end  # type: ignore[assignment]

    def _publish(self, pl_module: ANTS) -> None:
        pl_module.adaptation = {**pl_module.adaptation, list(self._loaders)[self.stream]: self.shaper.report(pl_module)}

    @property
    def evidence(self) -> Evidence:
        """Of the stream that runs."""
        return self.shaper.evidence

    @property
    def answers(self) -> dict[str, list[str]]:
        """Similar names by class, of the stream that runs."""
        return self.shaper.answers

    @property
    def sentences(self) -> list[str]:
        """The texts of the ENS queue."""
        return self.shaper.sentences

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on; see `ANTS.state`."""
        if self.stream < 0:
            return {"stream": -1}
        return {
            "stream": self.stream, "pending": list(self._pending), "raw": self._raw.state(), "shaper": self.shaper.state(),
        }  # fmt: skip

    def restore(self, trainer: L.Trainer, pl_module: ANTS, state: dict[str, Any]) -> None:
        """Become what `state` told; the module's own state is restored already."""
        self.stream = state["stream"]
        if self.stream >= 0:
            self._pending = state["pending"]
            self.shaper.restore(pl_module, self._make_asker(trainer, pl_module), state["shaper"])
            self._raw.restore(state["raw"])

    def state_dict(self) -> dict[str, Any]:
        """What was learnt from the stream; a later run with `persist` starts from it."""
        return {"evidence": self.evidence.state(), "answers": self.answers, "sentences": self.sentences}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.evidence.restore(state_dict["evidence"])
        self.shaper.answers, self.shaper.sentences = state_dict["answers"], state_dict["sentences"]
        self.shaper.fresh = False


def _spaces_of(stream: str) -> str:
    """The folder of a stream's spaces, in that of the run."""
    return f"spaces/{file_name(stream)}"
