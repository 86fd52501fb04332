"""`Guard`: asks an MLLM what it was not asked before, counts and times, and lets no failure through."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ants_lightning.common.hashes import pixel_hash
from ants_lightning.common.text import one_line
from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.record import Answer, Asked, Record

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 8  # refreshes from one try to the next
GONE = (TimeoutError, ConnectionError)  # nobody answers: to ask on would cost a time-out each


class Guard:
    """An MLLM that never ends the run.

    What it fails at is None (to be asked again), counted, and logged once for each kind.

    After a refresh in which it raised and answered nothing it is asked at the next one; when that fails too,
    every 2nd, 4th, then 8th. After a `TimeoutError` or `ConnectionError` nothing more is asked in the same
    refresh. `counts` holds

    * `mllm_calls`: questions, one an image or a class; `mllm_recalled`: answers from the record instead;
    * `mllm_failures`: questions without a usable answer; `mllm_unusable`: those of them that were answered,
      with nothing usable;
    * `mllm_unread`: images that could not be read for it, which are in `mllm_failures` too;
    * `mllm_shown`: images that it described or was to describe; `mllm_seconds`.
    """

    def __init__(self, mllm: MLLM | None) -> None:
        self.mllm: Any = mllm
        self.record: Record | None = None
        self.answered: list[tuple[Asked, Answer]] = []  # since the last `begin_refresh`
        self._began = 0  # lines of the record when the run began
        self.error = ""  # the last one of the last refresh
        self.asking = False  # a question is under way
        self._warned: set[str] = set()
        self._of_this_run: set[Asked] = set()  # in the record, got by this run before it was interrupted
        # Refreshes, failed ones in a row, when to ask again
        self._refresh, self._failed, self._next = (0, 0, 0)
        self._gone, self._heard = False, False  # in this refresh: nobody answers; something was answered
        self.reset()

    @property
    def at_once(self) -> int:
        """How many questions to give in one call."""
        return getattr(self.mllm, "at_once", 32)

    def open_record(self, path: Path | None) -> None:
        """Recall and record answers, if there is a file and the MLLM tells its identity. After its `setup`.

        A file that cannot be read, or that we did not write, costs the record: a warning.
        """
        identity = getattr(self.mllm, "identity", None)
        self.record, self._of_this_run = None, set()
        if path and identity:
            try:
                self.record = Record(path, identity())
                self._began = self.record.count
            except (OSError, ValueError) as error:
                logger.warning("answers are not recorded: %s", error)

    def keep(self, answered: Sequence[tuple[Asked, Answer]], write: bool) -> None:
        """Put answers of any rank into the record; a full disk costs the record, not the run."""
        self._change_record(lambda record, write: record.add(answered, write), write)

    def forget(self, is_bad: Callable[[Answer], bool], ask: str, write: bool) -> None:
        """Take bad answers to `ask` out of the record, so that the next run asks again."""
        if self.record is not None:
            bad = [asked for asked, answer in self.record.said.items() if asked.ask == ask and is_bad(answer)]
            self._change_record(lambda record, write: record.forget(bad, write), write)

    def _change_record(self, change: Callable[[Record, bool], None], write: bool) -> None:
        if self.record is None:
            return
        try:
            change(self.record, write and "record" not in self._warned)
        except OSError as error:
            self._warned.add("record")
            logger.warning("answers are not recorded any more: %s", error)

    def reset(self) -> None:
        """Count from 0 again."""
        names = ("mllm_calls", "mllm_recalled", "mllm_failures", "mllm_unusable", "mllm_unread", "mllm_shown")
        self.counts: dict[str, Any] = {**dict.fromkeys(names, 0), "mllm_seconds": 0.0}

    def begin_refresh(self) -> None:
        """What is asked from here on is one refresh."""
        failed = bool(self.error) and not self._heard
        self._failed = self._failed + 1 if failed else 0 if self._refresh >= self._next else self._failed
        if failed:
            self._next = self._refresh + min(2 ** (self._failed - 1), LONGEST_PAUSE)
        self._refresh += 1
        self.answered, self.error, self._gone, self._heard = [], "", False, False

    def failed(self, what: str, count: int, error: Exception) -> None:
        """Count failures; say so the first time for each kind."""
        self.counts["mllm_failures"] += count
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(
                "%s failed (%s: %.500s); the run goes on without", what, type(error).__name__, error
            )

    def unread(self, error: Exception) -> None:
        """Count an image that cannot be read."""
        self.counts["mllm_unread"] += 1
        self.failed("reading an image for the MLLM", 1, error)

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """`MLLM.describe`; None for each image that it fails at."""
        pairs = list(zip(images, avoid, strict=True))
        self.counts["mllm_shown"] += len(pairs)
        return self._ask(
            "describe",
            pairs,
            None,
            lambda some: self.mllm.describe([i for i, _ in some], [n for _, n in some]),
        )

    def similar_classes(
        self, names: Sequence[str], count: int, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """`MLLM.similar_classes`; None for each class that it fails at."""

        def ask(some: list[tuple[Image | None, str]]) -> Sequence[Any]:
            more = [] if images is None else [[image for image, _ in some]]
            return self.mllm.similar_classes([name for _, name in some], count, *more)

        return self._ask(
            "similar_classes", list(zip(images or [None] * len(names), names, strict=True)), count, ask
        )

    def _ask(
        self, what: str, pairs: list[Any], count: int | None, ask: Callable[[list[Any]], Sequence[Any]]
    ) -> list[Any]:
        """Answers to questions `(image, name)`: from the record, or asked for and checked."""
        start = time.monotonic()
        answers: list[Any] = [None] * len(pairs)
        asked: list[Asked] = []
        if self.record is not None:
            asked = [
                Asked(what, name, count, None if image is None else pixel_hash(image))
                for image, name in pairs
            ]
            answers = [self.record.answers.get(question) for question in asked]
            self._count_recalled(
                [(q, answer) for q, answer in zip(asked, answers, strict=True) if answer is not None]
            )
        missing = [i for i, answer in enumerate(answers) if answer is None]
        if missing and self._refresh >= self._next and not self._gone:
            for i, answer in zip(missing, self._answers(what, [pairs[i] for i in missing], ask), strict=True):
                answers[i] = answer
                if asked and answer is not None:
                    self.answered.append((asked[i], answer))
        self.counts["mllm_seconds"] += time.monotonic() - start
        return answers

    def _answers(self, what: str, pairs: list[Any], ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
        """Answers of the MLLM itself, counted; each of one line."""
        self.counts["mllm_calls"] += len(pairs)
        try:
            with self.question():
                got = ask(pairs)
            if (
                not isinstance(got, list)
                or len(got) != len(pairs)
                or not all(_fits(what, answer) for answer in got)
            ):
                raise TypeError(
                    f"{len(pairs)} questions, and an answer of another length or type: {got!r:.100}"
                )
        except Exception as error:  # whatever a model or a server throws
            self.failed(f"mllm.{what}", len(pairs), error)
            self.error = f"mllm.{what}: {type(error).__name__}: {error!s:.500}"
            self._gone = isinstance(error, GONE)
            return [None] * len(pairs)
        answers = [_tidy(answer) for answer in got]
        self._heard |= any(answers)
        self.counts["mllm_failures"] += sum(not answer for answer in answers)
        self.counts["mllm_unusable"] += sum(answer is not None and not answer for answer in answers)
        return answers

    @contextmanager
    def question(self) -> Iterator[None]:
        """While one is under way; a signal may end the run in it, since nothing has changed yet."""
        self.asking = True
        try:
            yield
        finally:
            self.asking = False

    def _count_recalled(self, answers: list[tuple[Asked, Answer]]) -> None:
        """Count answers that this run got before it was interrupted, as if it had asked in one go."""
        for question, answer in answers:
            again = question in self._of_this_run
            self._of_this_run.discard(question)
            self._heard |= bool(answer)
            self.counts["mllm_calls" if again else "mllm_recalled"] += 1
            self.counts["mllm_failures"] += again and not answer
            self.counts["mllm_unusable"] += again and not answer

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {
            "counts": dict(self.counts),
            "warned": list(self._warned),
            "error": self.error,
            "heard": self._heard,
            "pause": [self._refresh, self._failed, self._next],
            "recorded": None if self.record is None else [self._began, self.record.count],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a `state`; what the record holds beyond it was answered before the run ended."""
        self.counts, self._warned, self.error = dict(state["counts"]), set(state["warned"]), state["error"]
        self._heard = state["heard"]
        self._refresh, self._failed, self._next = state["pause"]
        if self.record is not None and state["recorded"] is not None:
            self._began, count = state["recorded"]
            self.record.go_on(self._began)
            self._of_this_run = set(self.record.since(count))


def _tidy(answer: Any) -> Any:
    """The answer in lines of printable text; "" and [] where nothing is left."""
    if isinstance(answer, list):
        return [name for name in map(one_line, answer) if name]
    return None if answer is None else one_line(answer)


def _fits(what: str, answer: Any) -> bool:
    if what == "describe" or answer is None:
        return answer is None or isinstance(answer, str)
    return isinstance(answer, list) and all(isinstance(name, str) for name in answer)
