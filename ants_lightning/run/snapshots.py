"""`Snapshots`: a test run that was interrupted goes on where it was, and ends as if it never had been."""

import logging
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from ants_lightning.ants import ANTS
from ants_lightning.common.hashes import canonical, digest
from ants_lightning.common.run_folder import RunFolder, run_folder
from ants_lightning.common.settings import check_counts
from ants_lightning.distributed import gather_json
from ants_lightning.run import snapshot_files as files
from ants_lightning.run.configuration import configuration_of, differences, memory_of, stateful
from ants_lightning.run.resuming import find_snapshot, new_texts

logger = logging.getLogger(__name__)

_EXIT_CODE = 128 + signal.SIGTERM  # as of a process that the signal ended; Lightning's own would be 0


class Snapshots(L.Callback):
    """Keeps all that the next batch depends on in the folder `snapshots` of the run, and resumes from it.

    A snapshot is written when a run begins and every `every` batches; with one rank also when an exception
    ends the run. SIGTERM ends it with exit code 143: one rank at once, whatever is under way, several at
    their next snapshot. A snapshot appears whole or not at all. One that cannot be written (full disk) is
    counted in `n_failed` and logged once; the run and the older ones stay as they are. A run that ends well
    removes them; other files in the folder stay. `fast_dev_run` has none.

    A snapshot holds the state of `ANTS` and of each callback with `state()` and `restore(trainer, pl_module,
    state)`, and the configuration of the run; one of another configuration is refused before the first batch:
    a ValueError that names each difference. Torn or damaged ones are named in a warning, and the one before
    is used. Several ranks need a folder that all share.

    Args:
        every: batches of a rank from one to the next, at least 1.
        resume: `auto`: go on from the newest good snapshot, or from the beginning where there is none; or the
            folder of a snapshot, or a folder with several. None: from the beginning.
        keep: how many stay, at least 1.
    """

    def __init__(self, every: int = 50, resume: str | None = None, keep: int = 2) -> None:
        check_counts(every=every, keep=keep)
        self.every, self.resume, self.keep = every, resume, keep
        self.n_failed = 0  # snapshots that could not be written
        self.resumed_from: Path | None = None
        self._found: tuple[dict[str, Any], dict[str, Tensor]] | None = None  # read, and not restored yet
        self._captured: Any = None
        self._folder: RunFolder | None = None  # None: no test run is under way
        self._users_handler: Any = signal.SIG_DFL
        self._terminated = self._writing = False

    def setup(self, trainer: L.Trainer, pl_module: ANTS, stage: str) -> None:  # type: ignore[override]
        """Find and read the snapshot to resume from.

        This is before the loaders are made, which leave out the batches that are done.
        """
        if stage != "test":
            return
        pl_module.resume_at([])
        self.n_failed, self._terminated = 0, False
        self.resumed_from = self._found = self._captured = self._folder = None
        self._trainer = trainer
        self._done: list[int] = []  # batches of each stream, here
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = run_folder(trainer)
        folder.claim(self)
        self._folder, self._root = folder, folder.path / "snapshots"
        self._listen()
        if trainer.is_global_zero:
            with suppress(OSError):  # the first snapshot tells
                folder.make_folder("snapshots")
            files.sweep(self._root)
        self._serial = max(gather_json(files.next_serial(self._root)))
        if self.resume is not None:
            self._found, self.resumed_from = find_snapshot(self.resume, self._root, trainer)
        position: list[int] = self._found[0]["position"] if self._found else []
        self._start = self._written = sum(position) if self._found else -1  # batches
        self._since = 0
        streams = len(self._found[0]["configuration"]["streams"]) if self._found else 0
        pl_module.resume_at(position + [0] * (streams - len(position)))

    def _listen(self) -> None:
        """Take SIGTERM from here on: also what comes before the first batch may take long."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGTERM)
            left = getattr(before, "__self__", None)  # of a run that an exception ended, see `_on_sigterm`
            handler = left._users_handler if isinstance(left, Snapshots) else before
            self._users_handler = handler or signal.SIG_DFL
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, signum: int, frame: Any) -> None:
        """End a run of one rank as Ctrl-C does; `on_exception` then writes what the batch began from."""
        if self._folder is None:  # no run any more: Lightning put this back as the handler that it had found
            signal.signal(signum, self._users_handler)
            os.kill(os.getpid(), signum)
            return
        launcher: Any = self._trainer.strategy.launcher
        if launcher is not None and not self._terminated:
            launcher.kill(signum)  # to the ranks that this one started
        self._terminated = True
        if callable(self._users_handler):
            self._users_handler(signum, frame)
        if self._trainer.world_size == 1 and not self._writing:
            raise SIGTERMException(_EXIT_CODE)

    def on_test_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Take SIGTERM over from Lightning, whose handler enters a collective that ranks may not reach."""
        if self._folder is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Compare the configurations and restore, after every `on_test_start` and before any batch."""
        if self._folder is None:
            return
        everywhere = gather_json([float(n) for n in trainer.num_test_batches])
        self._common = [min(of) for of in zip(*everywhere, strict=True)]  # batches that every rank has
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
        """Write what the run starts from.

        With it, answers recorded before the next snapshot are known to be this run's own.
        """
        self._capture(trainer, pl_module, [0])
        memory = memory_of(trainer)
        if memory:
            self._captured["state"]["guard"] = memory.guard.state()
        self._write(trainer, pl_module)

    def _capture(self, trainer: L.Trainer, pl_module: ANTS, position: list[int]) -> None:
        callbacks = {name: callback.state() for name, callback in stateful(trainer).items()}
        self._captured = {
            "position": position,
            "state": {"module": pl_module.state(), "callbacks": callbacks},
        }

    def on_test_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """All batches before are done: capture the state, and write it where one is due."""
        if batch is None or self._folder is None:
            return
        alone = trainer.world_size == 1
        position = [*self._done, *[0] * (dataloader_idx + 1 - len(self._done))]
        self._capture(trainer, pl_module, position)
        # At the first batch of a stream ranks may still wait for one another in the memory, so they do not
        # meet here.
        if not (alone or 0 < batch_idx < self._common[dataloader_idx]):
            return
        if sum(position) > max(0, self._start):
            self._since += 1
        if self._since >= self.every or (alone and self._terminated):
            self._write(trainer, pl_module)
            if any(gather_json(self._terminated or trainer.received_sigterm)):
                raise SIGTERMException(_EXIT_CODE)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: ANTS,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batches done, those that are skipped too."""
        self._done += [0] * (dataloader_idx + 1 - len(self._done))
        self._done[dataloader_idx] = batch_idx + 1

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """With one rank: write what the last batch began from; several ranks cannot meet any more."""
        if self._folder is None:
            return
        self._writing = True  # from here on SIGTERM comes too late
        try:
            if self._captured is not None and trainer.world_size == 1:
                self._write(trainer, pl_module)
            if isinstance(exception, SIGTERMException):
                done = self._captured["position"] if self._captured else "no"
                logger.warning("SIGTERM: the run ends after %s batches", done)
        finally:
            self._end()

    def _end(self) -> None:
        """Give back what `setup` took."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._on_sigterm
        ):
            signal.signal(signal.SIGTERM, self._users_handler)
        if self._folder is not None:
            self._folder.release(self)
        self._folder, self._captured, self._writing = None, None, False

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the captured state, all ranks at once, unless it is written already."""
        self._since = 0
        if sum(self._captured["position"]) == self._written:
            return
        before, self._writing = self._writing, True
        try:
            self._write_captured(trainer, pl_module, self._captured)
        finally:
            self._writing = before

    def _write_captured(self, trainer: L.Trainer, pl_module: Any, captured: Any) -> None:
        rank, world = trainer.global_rank, trainer.world_size
        about = {
            "format": files.FORMAT,
            "serial": self._serial,
            "rank": rank,
            "world_size": world,
            "position": captured["position"],
            "configuration": self._configuration,
            "configuration_sha256": digest(canonical(self._configuration)),
        }
        folder, error = files.partial(self._root, self._serial), ""
        try:
            files.write_share(
                folder, rank, about, {**captured["state"], "texts": new_texts(pl_module, self._prepared)}
            )
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
                files.remove(folder)
            self.n_failed += 1
            if self.n_failed == 1:
                logger.warning(
                    "a snapshot could not be written, and the run goes on without: %s", "; ".join(errors)
                )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the snapshots of a run that ended well, unless its results were not written."""
        if stage != "test" or self._folder is None:
            return
        if self.n_failed:
            logger.warning("%d snapshots could not be written", self.n_failed)
        if trainer.is_global_zero and self._folder.incomplete:
            logger.warning(
                "%s stays: with `resume` the end of the run is done again and its results written", self._root
            )
        elif trainer.is_global_zero:
            files.sweep(self._root)
            for path in files.list_snapshots(self._root):
                files.remove(path)
            self._folder.remove_folder("snapshots")
        self._end()
