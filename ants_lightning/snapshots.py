"""`Snapshots`: a test run that was interrupted goes on where it was, and ends as if it never had been."""

import logging
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from ants_lightning import snapshot_files as files
from ants_lightning.configuration import configuration_of, differences, memory_of, stateful
from ants_lightning.gathering import gather_json
from ants_lightning.module import ANTS

logger = logging.getLogger(__name__)

_EXIT_CODE = 128 + signal.SIGTERM  # as of a process that the signal ended; Lightning's own would be 0


class Snapshots(L.Callback):
    """Writes all that the next batch of a test run depends on to `<trainer.default_root_dir>/snapshots`, and resumes from there.

    A snapshot is written when a run begins and every `every` batches; with one rank also when an exception ends the run, and on
    SIGTERM, which ends it at the next batch (several ranks: at their next snapshot) with exit code 143. It appears whole or not at
    all. One that cannot be written (full disk) is counted in `n_failed` and logged once; the run and the older ones stay as they
    are. A run that ends well removes them.

    A snapshot holds the state of `ANTS` and of each callback with `state()` and `restore(trainer, pl_module, state)`, and the
    configuration of the run; one of another configuration is refused before the first batch: a ValueError that names each
    difference. Torn or damaged ones are named in a warning, and the one before is used. Several ranks need a folder that all share.

    Args:
        every: batches of a rank from one to the next, at least 1.
        resume: `auto`: go on from the newest good snapshot, or from the beginning where there is none; or the folder of a snapshot,
            or a folder with several. None: from the beginning.
        keep: how many stay, at least 1.
    """

    def __init__(self, every: int = 50, resume: str | None = None, keep: int = 2) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.every, self.resume, self.keep = every, resume, keep
        self.n_failed = 0  # snapshots that could not be written
        self.resumed_from: Path | None = None
        self._found: tuple[dict[str, Any], dict[str, Tensor]] | None = None  # what is read and not restored yet
        self._captured: Any = None
        self._terminated = False

    def setup(self, trainer: L.Trainer, pl_module: ANTS, stage: str) -> None:  # type: ignore[override]
        """Find and read the snapshot to resume from, before the loaders are made: they leave out the batches that are done."""
        if stage != "test":
            return
        self._root = Path(trainer.default_root_dir) / "snapshots"
        if trainer.is_global_zero:
            files.sweep(self._root)
        self._serial = 1 + max(gather_json(max((int(path.name) for path in files.list_snapshots(self._root)), default=0)))
        self.n_failed, self.resumed_from, self._found, self._captured, self._terminated = 0, None, None, None, False
        if self.resume is not None:
            self._find(trainer)
        self._done: list[int] = []  # batches of each stream, here
        position: list[int] = self._found[0]["position"] if self._found else []
        self._start = self._written = sum(position) if self._found else -1  # batches
        self._since = 0
        streams = len(self._found[0]["configuration"]["streams"]) if self._found else 0
        pl_module.skip = position + [0] * (streams - len(position))
        self._users_handler = signal.getsignal(signal.SIGTERM)  # before Lightning puts in its own

    def _find(self, trainer: L.Trainer) -> None:
        """Read the newest snapshot that is good on every rank."""
        given = self._root if self.resume == "auto" else Path(str(self.resume))
        single = (given / "rank0.json").is_file()
        names = gather_json([] if single else [path.name for path in files.list_snapshots(given)])[0]
        for folder in [given] if single else [given / name for name in names]:
            found, world, bad = None, 0, ""
            try:
                world = files.read_about(folder, 0)["world_size"]
                if world == trainer.world_size:
                    found = files.read_share(folder, trainer.global_rank)
            except ValueError as error:
                bad = str(error)
            reasons = [why for why in gather_json(bad) if why]
            if not reasons:
                if found is None:
                    differs = f"trainer.world_size was {world}, now {trainer.world_size}"
                    raise ValueError(f"{folder} is of another configuration: {differs}")
                self._found, self.resumed_from = found, folder
                logger.info("resuming from %s, after %s batches", folder, found[0]["position"])
                return
            logger.warning("the snapshot %s is not good and left out: %s", folder, "; ".join(reasons))
        if self.resume != "auto":
            raise ValueError(f"resume: no good snapshot in {str(given)!r}")
        logger.info("no snapshot in %s: the run starts from the beginning", given)

    def on_test_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Take SIGTERM over from Lightning, whose handler enters a collective that others may not reach; it undoes this."""

        def on_sigterm(signum: int, frame: Any) -> None:
            launcher: Any = trainer.strategy.launcher
            if launcher is not None and not self._terminated:
                launcher.kill(signum)  # to the ranks that this one started
            self._terminated = True
            if callable(self._users_handler):
                self._users_handler(signum, frame)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Compare the configurations and restore: after every `on_test_start` and before any batch, at each place in the list."""
        everywhere = gather_json([float(n) for n in trainer.num_test_batches])
        self._common = [min(of) for of in zip(*everywhere, strict=True)]  # batches of each stream that every rank has
        self._configuration = configuration_of(trainer, pl_module)
        self._prepared = frozenset(pl_module.encoder.texts)
        if self._found is None:
            self._begin(trainer, pl_module)
            return
        about, tensors = self._found
        then = {"snapshot": {"format": about["format"]}, **about["configuration"]}
        found = differences(then, {"snapshot": {"format": files.FORMAT}, **self._configuration})
        found = list(dict.fromkeys(line for lines in gather_json(found) for line in lines))
        if found:
            raise ValueError(f"{self.resumed_from} is of another configuration: {'; '.join(found)}")
        state = files.unpack(about["state"], tensors, pl_module.device)
        self._found = None
        pl_module.encoder.keep(state["texts"]["texts"], state["texts"]["features"])
        pl_module.restore(state["module"])
        for name, callback in stateful(trainer).items():
            callback.restore(trainer, pl_module, state["callbacks"][name])
        memory = memory_of(trainer)
        if memory and "guard" in state:
            memory.guard.restore(state["guard"])

    def _begin(self, trainer: L.Trainer, pl_module: ANTS) -> None:
        """Write what the run starts from: with it, answers recorded before the next snapshot are known to be this run's own."""
        self._capture(trainer, pl_module, [0])
        memory = memory_of(trainer)
        if memory:
            self._captured["state"]["guard"] = memory.guard.state()
        self._write(trainer, pl_module)

    def _capture(self, trainer: L.Trainer, pl_module: ANTS, position: list[int]) -> None:
        callbacks = {name: callback.state() for name, callback in stateful(trainer).items()}
        self._captured = {"position": position, "state": {"module": pl_module.state(), "callbacks": callbacks}}

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """All batches before are done: capture the state, and write it where one is due."""
        if batch is None:
            return
        alone = trainer.world_size == 1
        position = [*self._done, *[0] * (dataloader_idx + 1 - len(self._done))]
        self._capture(trainer, pl_module, position)
        # At the first batch of a stream ranks may still wait for one another in the memory, so they do not meet here.
        if not (alone or 0 < batch_idx < self._common[dataloader_idx]):
            return
        self._since += sum(position) > max(0, self._start)
        stop = self._terminated or trainer.received_sigterm
        if self._since >= self.every or (alone and stop):
            self._write(trainer, pl_module)
            if any(gather_json(stop)):
                logger.warning("SIGTERM: the run ends after %s batches", position)
                raise SIGTERMException(_EXIT_CODE)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the batches done, those that are skipped too."""
        self._done += [0] * (dataloader_idx + 1 - len(self._done))
        self._done[dataloader_idx] = batch_idx + 1

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """With one rank: write what the last batch began from; several ranks cannot meet any more."""
        if self._captured is not None and trainer.world_size == 1:
            self._write(trainer, pl_module)
        self._captured = None

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the captured state, all ranks at once, unless it is written already."""
        captured = self._captured
        self._since = 0
        if sum(captured["position"]) == self._written:
            return
        rank, world = trainer.global_rank, trainer.world_size
        about = {
            "format": files.FORMAT, "serial": self._serial, "rank": rank, "world_size": world, "position": captured["position"],
            "configuration": self._configuration, "configuration_sha256": files.digest(files.canonical(self._configuration)),
        }  # fmt: skip
        folder, error = files.partial(self._root, self._serial), ""
        try:
            files.write_share(folder, rank, about, {**captured["state"], "texts": new_texts(pl_module, self._prepared)})
        except (OSError, TypeError) as raised:
            error = f"rank {rank}: {raised}"
        errors = [why for why in gather_json(error) if why]
        if trainer.is_global_zero and not errors:
            try:
                files.publish(self._root, self._serial, world, self.keep)
            except OSError as raised:
                errors = [str(raised)]
        errors = gather_json(errors)[0]  # also: no rank ends before the snapshot is there
        self._serial += 1
        self._written = sum(captured["position"])
        if errors:
            if trainer.is_global_zero:
                shutil.rmtree(folder, ignore_errors=True)
            self.n_failed += 1
            if self.n_failed == 1:
                logger.warning("a snapshot could not be written, and the run goes on without: %s", "; ".join(errors))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The run ended well (Lightning calls this after no other): remove its snapshots."""
        if stage != "test":
            return
        self._captured = None
        if self.n_failed:
            logger.warning("%d snapshots could not be written", self.n_failed)
        if trainer.is_global_zero:
            shutil.rmtree(self._root, ignore_errors=True)


def new_texts(model: ANTS, but: frozenset[str]) -> dict[str, Any]:
    """The texts that were encoded since the run began, with their features."""
    texts = [text for text in model.encoder.texts if text not in but]
    return {"texts": texts, "features": model.encoder(texts).cpu() if texts else torch.empty(0)}
