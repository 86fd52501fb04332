"""`StreamLoader`: a loader that goes on at any batch and outlives its workers; `RankShare`."""

import logging
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

logger = logging.getLogger(__name__)

MOST_RESTARTS = 3  # in a row, with no batch in between
SHUTDOWN_S = 20  # torch itself waits 5 s for each worker
_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
)


class RankShare(DistributedSampler):
    """One rank's share of an order: elements r, r + W, …, each once; a share may be empty.

    Lightning replaces no `DistributedSampler`, which this therefore is.

    Args:
        order: keys of the data set, in stream order.
        world: W.
        rank: r.
    """

    def __init__(self, order: Sequence[Any], world: int, rank: int) -> None:
        super().__init__(order, world, rank, shuffle=False)  # type: ignore[arg-type]
        self.order = order

    def __iter__(self) -> Iterator[Any]:
        return iter(self.order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return len(range(self.rank, len(self.order), self.num_replicas))


class StreamLoader(DataLoader):
    """Yields None for the first `skip` batches, without loading them; starts again where a worker was killed.

    Batches come in order, whatever the loader it is made from says. When workers are killed more than
    `MOST_RESTARTS` times with no batch in between, torch's RuntimeError is raised.

    Args:
        loader: which gives data set, collate_fn, workers and the like.
        batch_sampler: gives the batches; asked once an iteration, so that its order counts even if it is
            another each time.
        skip: batches.
    """

    def __init__(self, loader: DataLoader, batch_sampler: Any, skip: int = 0) -> None:
        kept = {name: getattr(loader, name) for name in _KEPT}
        super().__init__(
            loader.dataset, batch_sampler=batch_sampler, persistent_workers=loader.persistent_workers, **kept
        )
        # What a loader that was not given a batch_sampler tells; torch's own setter refuses.
        told = {name: getattr(batch_sampler, name, None) for name in ("batch_size", "sampler")}
        self.__dict__.update({name: value for name, value in told.items() if value is not None})
        self.batches, self.skip, self.restarts = batch_sampler, skip, 0
        self.on_start: Callable[[], None] = lambda: None  # called when an iteration begins

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.on_start()
        batches = iter(self.batches)
        done = sum(1 for _ in islice(batches, self.skip))
        yield from repeat(None, done)
        under_way = deque[Any]()  # asked of the workers, and not delivered yet
        with _Watch() as watch:
            in_a_row, iterator = 0, None
            while True:
                try:
                    if iterator is None:
                        if not under_way and (first := next(batches, None)) is not None:
                            under_way.append(first)
                        if not under_way:
                            return  # no worker is started for nothing
                        iterator = self._start(watch.feed(batches, under_way), watch)
                    batch = watch.next(iterator)
                except StopIteration:
                    return
                except Exception as error:
                    why = watch.cause(error)
                    if why is None or in_a_row == MOST_RESTARTS:
                        raise
                else:
                    under_way.popleft()
                    done, in_a_row = done + 1, 0
                    yield batch
                    del batch  # or two would be held while the next is awaited
                    continue
                retired, iterator = [iterator], None
                watch.retire(retired)
                in_a_row, self.restarts = in_a_row + 1, self.restarts + 1
                logger.warning(
                    "%s Loading goes on at batch %d (restart %d of this loader)", why, done, self.restarts
                )

    def _start(self, batches: Iterator[Any], watch: "_Watch") -> Iterator[Any]:
        """A new iterator with workers of its own, over these batches."""
        watch.news = None
        kept = {name: getattr(self, name) for name in _KEPT}
        others = set(multiprocessing.active_children())
        iterator = iter(DataLoader(self.dataset, batch_sampler=batches, **kept))
        watch.workers = [child for child in multiprocessing.active_children() if child not in others]
        if self.num_workers:
            watch.install()
        return iterator


class _Watch:
    """Keeps news of dead workers until the next batch is asked for.

    torch raises them from a SIGCHLD handler, wherever the main thread is: perhaps in the middle of a step,
    of which only the first half would then be done.
    """

    def __init__(self) -> None:
        self._asking, self._feeding, self._installed = False, False, False
        self.news: str | None = None
        self.workers: list[BaseProcess] = []

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        in_main = threading.current_thread() is threading.main_thread()  # a generator may be closed elsewhere
        if in_main and self._installed and signal.getsignal(signal.SIGCHLD) == self._handle:
            signal.signal(signal.SIGCHLD, self._before)
        self._asking = True  # where somebody else wraps the handler, it stays, and changes nothing

    def install(self) -> None:
        """Come before torch's handler, or in place of it.

        torch sets its own once a process, when a loader first starts workers, and it is lost when Lightning
        puts back, after a run, the handlers from before. In other threads and on Windows there is none, and
        torch finds dead workers when a batch is asked for.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if self._installed or not in_main or not hasattr(signal, "SIGCHLD"):
            return
        self._before: Any = signal.getsignal(signal.SIGCHLD)
        self._installed = True
        signal.signal(signal.SIGCHLD, self._handle)

    def retire(self, iterators: list[Any]) -> None:
        """Let go of an iterator whose worker was killed, and of its other workers.

        torch shuts them down when the last reference goes, which never ends if the worker was killed while it
        held a lock of theirs: then they are killed from here, and a thread stays behind.
        """
        workers, self.workers = self.workers, []
        thread = threading.Thread(target=iterators.clear, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_S)
        if thread.is_alive():
            for worker in workers:
                worker.kill()
                worker.join()

    def _handle(self, number: int, frame: Any) -> None:
        try:
            if callable(self._before):
                self._before(number, frame)
            if dead := self._dead():
                raise RuntimeError(dead)
        except RuntimeError as error:
            self.news = str(error)
            if self._asking and not self._feeding:
                raise

    def _dead(self) -> str | None:
        """Which workers were killed, in the words of torch."""
        dead = [str(worker.pid) for worker in self.workers if worker.exitcode]
        return f"DataLoader worker (pid(s) {', '.join(dead)}) exited unexpectedly" if dead else None

    def feed(self, batches: Iterator[Any], under_way: deque[Any]) -> Iterator[Any]:
        """The batches under way again, then new ones; no more is held of a stream, however long it is."""
        yield from list(under_way)
        while True:
            self._feeding = True  # an error raised in here would end `batches` for good, or lose one
            batch = next(batches, None)  # no `for`: Lightning's wrapper would begin anew
            if batch is not None:
                under_way.append(batch)
            self._feeding = False
            if batch is None:
                return
            yield batch

    def next(self, iterator: Iterator[Any]) -> Any:
        """The next batch; RuntimeError where a worker has died, now or since the last one."""
        self._asking = True
        try:
            if self.news:
                raise RuntimeError(self.news)
            return next(iterator)
        finally:
            self._asking = False

    def cause(self, error: Exception) -> str | None:
        """Which worker's death an error of `next` comes from, if from any; known once."""
        self._asking = False  # the news may have come just before `next` said so
        if str(error).startswith("DataLoader worker (pid"):
            self.news = None
            return str(error)
        if "in DataLoader worker process" not in str(error):
            # It does not come from the data set: perhaps the news come after a torn message.
            until = time.monotonic() + 2
            while self.workers and not self.news and time.monotonic() < until:
                self.news = self._dead()
                time.sleep(0.01)
        news, self.news = self.news, None
        return news


class Discarding:
    """An iterable whose first `skip` batches are loaded and thrown away; None stands in their place."""

    def __init__(self, loader: Any, skip: int) -> None:
        self.loader, self.skip = loader, skip

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self.loader):
            yield None if i < self.skip else batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)
