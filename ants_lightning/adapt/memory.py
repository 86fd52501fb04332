"""`NegativeMemory`: the callback that shapes the negative text space while the stream runs."""

import logging
import math
from typing import Any, Literal

import lightning as L
import torch

from ants_lightning.adapt.asking import Asker, ask_before_the_stream
from ants_lightning.adapt.bank import MemoryBank, Rows, join, take
from ants_lightning.adapt.keeping import KeptAnswers
from ants_lightning.adapt.refresh import Refresher
from ants_lightning.adapt.settings import (
    ENS,
    VSNL,
    HygieneSettings,
    MemorySettings,
    Mining,
    Schedule,
)
from ants_lightning.ants import ANTS
from ants_lightning.common.groups import group_of
from ants_lightning.data.batches import dataset_of, stream_loaders, unpack_batch
from ants_lightning.data.raw import RawImages
from ants_lightning.decide.threshold import decisive
from ants_lightning.distributed import gather_json, gather_rows
from ants_lightning.mllm.base import MLLM, ChatMLLM
from ants_lightning.mllm.guard import Guard
from ants_lightning.mllm.record import ReplayMLLM

logger = logging.getLogger(__name__)


class NegativeMemory(L.Callback):
    """Keeps the negative images of the stream, asks an MLLM about them, and refreshes ENS, VSNL and λ.

    Sync points: there is one every `schedule.every` batches, and one at the end of each stream. A stream of
    no more batches than that has one in its middle, too. All ranks meet at a sync point and bring together
    what they have seen, in stream order, so W ranks with batches of B images end as one rank with batches of
    W·B. A batch is scored with what earlier batches taught, unless `schedule.score_after_refresh` is set.

    The MLLM is asked a question before the first batch (`mllm.first_question`). `trainer.predict` adapts as
    `trainer.test` does. The spaces that a stream ends with are kept in
    `<trainer.default_root_dir>/spaces/<stream>`, for `ANTS(spaces=…)`.

    Args:
        mllm: describes images and names similar classes. None: nothing is asked, and there are no columns
            ENS, VSNL and ANTS; baselines and the threshold `auto` still learn from the stream.
        mining: which images count as negative. A `Mining` or a dict of its settings; None: its defaults.
        ens: the queue of sentences. An `ENS` or a dict; None: its defaults.
        vsnl: the similar labels. A `VSNL` or a dict; None: its defaults.
        schedule: when to learn. A `Schedule` or a dict; None: its defaults.
        hygiene: which answers to drop. A `HygieneSettings` or a dict; None: its defaults.
        weight: how λ is found: by eq. 14 (`paper`), by eq. 14 from scores that an image had before its own
            sentence entered (`prequential`), or from the balanced scores of all images, as in the authors'
            code (`balanced`, see `method.weight.balanced_scores`).
        persist: keep what was learnt from one stream to the next.
        on_failure: what an MLLM that raises does to the run. `check`: the run goes on with the last good
            spaces, but it does not begin where the MLLM cannot answer the first question. `continue`: it
            begins even then, with a warning. `raise`: it ends.
        record: name of a file in `trainer.default_root_dir` for all answers. What is in it is not asked
            again. None: no record.
        adapt: False: nothing is learnt, and no MLLM is needed or loaded; the spaces stay as `ANTS(spaces=…)`
            has them.

    Raises:
        ValueError: for a setting out of range; before the first batch, where there is an MLLM and ANTS has no
            negative labels to start from.
        RuntimeError: before the first batch, where the MLLM cannot answer.

    Attributes:
        settings: all settings but the MLLM.
    """

    def __init__(
        self,
        mllm: ChatMLLM | ReplayMLLM | MLLM | None = None,
        mining: Mining | dict[str, Any] | None = None,
        ens: ENS | dict[str, Any] | None = None,
        vsnl: VSNL | dict[str, Any] | None = None,
        schedule: Schedule | dict[str, Any] | None = None,
        hygiene: HygieneSettings | dict[str, Any] | None = None,
        weight: Literal["paper", "prequential", "balanced"] = "prequential",
        persist: bool = False,
        on_failure: Literal["check", "continue", "raise"] = "check",
        record: str | None = "mllm.jsonl",
        adapt: bool = True,
    ) -> None:
        self.settings = MemorySettings(
            mining=group_of(Mining, "mining", mining),
            ens=group_of(ENS, "ens", ens),
            vsnl=group_of(VSNL, "vsnl", vsnl),
            schedule=group_of(Schedule, "schedule", schedule),
            hygiene=group_of(HygieneSettings, "hygiene", hygiene),
            weight=weight,
            persist=persist,
            on_failure=on_failure,
            record=record,
            adapt=adapt,
        )
        self.guard = Guard(mllm if self.adapt else None)
        self.refresher = Refresher(self.settings)
        self.stream = -1  # which one is running
        self._kept = KeptAnswers()

    def setup(self, trainer: L.Trainer, pl_module: ANTS, stage: str) -> None:  # type: ignore[override]
        """Claim the folder of the run. Where it cannot be written, record and spaces are not kept."""
        self._kept.forget()
        if self.adapt and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._kept.claim(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the folder."""
        self._kept.release()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the folder."""
        self.teardown(trainer, pl_module, "test")

    def on_test_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Get the MLLM ready, open the record, and find how many batches every rank has."""
        self.stream = -1
        if not self.adapt:
            return
        self._loaders = stream_loaders(trainer)
        pl_module.spaces.switch_adapted(self.guard.mllm is not None)
        if self.guard.mllm is not None:
            self.guard.mllm.setup(pl_module.device)
            go_on = self.settings.on_failure == "continue"
            ask_before_the_stream(self.guard, pl_module.class_names[0], self.settings.vsnl.names, go_on)
        self.guard.open_record(self._kept.record(self.settings.record))
        counts = trainer.num_predict_batches if trainer.predicting else trainer.num_test_batches
        self._batches = [float(n) for n in counts]  # of each stream, here
        self._most = [max(of) for of in zip(*gather_json(self._batches), strict=True)]  # of any rank
        self.refresher.begin_run()
        self._kept.check(self._loaders if trainer.is_global_zero and pl_module.spaces.adapted else ())

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """At the first batch of a stream, end the one before and forget it."""
        if batch is not None and self.adapt:
            self._advance(trainer, pl_module, dataloader_idx)

    def _advance(self, trainer: L.Trainer, pl_module: ANTS, to: int) -> None:
        """End and begin streams until `to` runs; also those without a batch here: others exchange there."""
        while self.stream < to:
            self._end_stream(trainer, pl_module)
            if self.stream == -1 and self.guard.mllm is not None and not len(pl_module.spaces.neglabel):
                raise ValueError(
                    "NegativeMemory needs negative labels to start from: give ANTS nouns or adjectives"
                )
            self.stream += 1
            self._pending: list[Rows] = []
            self.refresher.begin(pl_module, self._make_asker(trainer, pl_module))
            self._publish(pl_module)

    @property
    def _interval(self) -> int:
        """Batches from one sync point of this stream to the next: a short stream has one in its middle."""
        most = self._most[self.stream]
        return (
            self.settings.schedule.every if most > self.settings.schedule.every else math.ceil(most / 2) or 1
        )

    def _make_asker(self, trainer: L.Trainer, pl_module: ANTS) -> Asker:
        loader = list(self._loaders.values())[self.stream]
        dataset = loader if dataset_of(loader) is None else dataset_of(loader)
        kept = self.settings.mining.bank_size if self.guard.mllm is not None else 0
        self._raw = RawImages(dataset, pl_module.preprocess, kept)
        ranks = trainer.global_rank, trainer.world_size
        return Asker(self.guard, self._raw, *ranks, self.settings.vsnl.show_images, self.settings.on_failure)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: ANTS,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the evidence of the batch; at a sync point refresh."""
        if outputs is None or not self.adapt:
            return
        index, score = outputs["index"], outputs.get("id_score")
        if score is None:  # without negative labels no image is a candidate
            score = torch.ones(len(index), device=index.device)
        self._pending.append(
            {
                "index": index,
                "id_score": score,
                "owner": torch.full_like(index, trainer.global_rank),
                "prediction": outputs["prediction"],
                "features": outputs["features"],
                "ood_score": decisive(outputs["scores"]),
            }
        )
        images = (
            unpack_batch(batch)[0] if outputs["kept"] is None else unpack_batch(batch)[0][outputs["kept"]]
        )
        self._raw.keep(images, index, score < self.refresher.bank.admitted_below)
        if (batch_idx + 1) % self._interval == 0:
            self._sync(pl_module)
            if self.settings.schedule.score_after_refresh:
                outputs.update(pl_module.decide(pl_module.score(outputs["features"])))

    def _sync(self, pl_module: ANTS) -> None:
        """Gather the evidence since the last sync point, in stream order, and learn from it."""
        here, self._pending = join([self._no_rows(pl_module), *self._pending]), []
        rows = join(gather_rows(here))
        self.refresher.learn(take(rows, rows["index"].argsort(stable=True)))
        self._publish(pl_module)

    def _no_rows(self, pl_module: ANTS) -> Rows:
        """No image: what a rank without a batch gives."""
        whole = dict.fromkeys(("index", "owner", "prediction"), torch.long)
        empty = {name: torch.empty(0, dtype=kind, device=pl_module.device) for name, kind in whole.items()}
        score = torch.empty(0, device=pl_module.device)
        return {**empty, "id_score": score, "features": pl_module.spaces.id_text[:0], "ood_score": score}

    def _end_stream(self, trainer: L.Trainer, pl_module: ANTS) -> None:
        """Sync points for batches that only other ranks had, and for what is left; then keep the spaces."""
        if self.stream < 0:
            return
        here, most, interval = self._batches[self.stream], self._most[self.stream], self._interval
        unsized = math.isinf(most)  # on one rank: several share sized streams alone
        left = int(bool(self._pending)) if unsized else math.ceil(most / interval) - int(here // interval)
        for _ in range(left):
            self._sync(pl_module)
        name = list(self._loaders)[self.stream]
        for fault in pl_module.evaluation.adaptation[name]["faults"] if trainer.is_global_zero else ():
            logger.warning("stream %r: %s", name, fault["text"])
        if trainer.is_global_zero and pl_module.spaces.adapted:
            self._kept.keep(name, pl_module.files_of_spaces(self.refresher.answers))

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
        pl_module.evaluation.publish(list(self._loaders)[self.stream], self.refresher.report())

    @property
    def adapt(self) -> bool:
        """Whether anything is learnt."""
        return self.settings.adapt

    @property
    def bank(self) -> MemoryBank:
        """Of the stream that runs."""
        return self.refresher.bank

    @property
    def answers(self) -> dict[str, list[str]]:
        """Similar names by class, of the stream that runs."""
        return self.refresher.answers

    @property
    def sentences(self) -> list[str]:
        """The texts of the ENS queue."""
        return self.refresher.sentences

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on; see `ANTS.state`."""
        if self.stream < 0:
            return {"stream": -1}
        return {
            "stream": self.stream,
            "pending": list(self._pending),
            "raw": self._raw.state(),
            "refresher": self.refresher.state(),
        }

    def restore(self, trainer: L.Trainer, pl_module: ANTS, state: dict[str, Any]) -> None:
        """Become what `state` told; the module's own state is restored already."""
        self.stream = state["stream"]
        if self.stream >= 0:
            self._pending = state["pending"]
            self.refresher.restore(pl_module, self._make_asker(trainer, pl_module), state["refresher"])
            self._raw.restore(state["raw"])

    def state_dict(self) -> dict[str, Any]:
        """What was learnt from the stream; a later run with `persist` starts from it."""
        return self.refresher.persisted()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.refresher.persist(state_dict)
