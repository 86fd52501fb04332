"""`Guard`: asks an MLLM what it was not asked before, counts and times, and lets no failure through."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ants_lightning.mllm.base import MLLM
from ants_lightning.mllm.record import Answer, Asked, Record, pixel_hash

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 8  # refreshes from one try to the next


class Guard:
    """An MLLM that never ends the run: what it fails at is None (to be asked again), counted, and logged once a kind.

    After a refresh in which it raised it is asked at the next one; when that fails too, every 2nd, 4th, then 8th.
    `counts` holds `mllm_calls` (questions, one an image or a class), `mllm_recalled` (answers from the record instead),
    `mllm_failures` (questions without a usable answer) and `mllm_seconds`.
    """

    def __init__(self, mllm: MLLM | None) -> None:
        self.mllm: Any = mllm
        self.record: Record | None = None
        self.answered: list[tuple[Asked, Answer]] = []  # since the last `begin_refresh`
        self.error = ""  # of the last refresh
        self._warned: set[str] = set()
        self._of_this_run: set[Asked] = set()  # in the record, got by this run before it was interrupted
        self._refresh, self._failed, self._next = 0, 0, 0  # refreshes, failed ones in a row, when to ask again
        self.reset()

    def open_record(self, path: Path | None) -> None:
        """Recall and record answers, if there is a file and the MLLM tells its identity. After its `setup`."""
        identity = getattr(self.mllm, "identity", None)
        self._of_this_run = set()
        self.record = Record(path, identity()) if path and identity else None

    def keep(self, answered: Sequence[tuple[Asked, Answer]], write: bool) -> None:
        """Put answers of this or another rank into the record."""
        if self.record is not None:
            self.record.add(answered, write)

    def reset(self) -> None:
        """Count from 0 again."""
        self.counts = {"mllm_calls": 0, "mllm_recalled": 0, "mllm_failures": 0, "mllm_seconds": 0.0}

    def begin_refresh(self) -> None:
        """What is asked from here on is one refresh."""
        self._failed = self._failed + 1 if self.error else 0 if self._refresh >= self._next else self._failed
        if self.error:
            self._next = self._refresh + min(2 ** (self._failed - 1), LONGEST_PAUSE)
        self._refresh += 1
        self.answered, self.error = [], ""

    def failed(self, what: str, count: int, error: Exception) -> None:
        """Count failures; say so the first time for each kind."""
        self.counts["mllm_failures"] += count
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s failed (%s: %.200s); the run goes on without", what, type(error).__name__, error)

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """`MLLM.describe`; None for each image that it fails at."""
        pairs = list(zip(images, avoid, strict=True))
        return self._ask("describe", pairs, None, lambda some: self.mllm.describe([i for i, _ in some], [n for _, n in some]))

    def similar_classes(
        self, names: Sequence[str], count: int, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """`MLLM.similar_classes`; None for each class that it fails at."""

        def ask(some: list[tuple[Image | None, str]]) -> Sequence[Any]:
            more = [] if images is None else [[image for image, _ in some]]
            return self.mllm.similar_classes([name for _, name in some], count, *more)

        return self._ask("similar_classes", list(zip(images or [None] * len(names), names, strict=True)), count, ask)

    def _ask(self, what: str, pairs: list[Any], count: int | None, ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
        """Answers to questions `(image, name)`: from the record, or asked for and checked."""
        start = time.monotonic()
        answers: list[Any] = [None] * len(pairs)
        asked: list[Asked] = []
        if self.record is not None:
            asked = [Asked(what, name, count, None if image is None else pixel_hash(image)) for image, name in pairs]
            answers = [self.record.answers.get(question) for question in asked]
            self._count_recalled([(q, answer) for q, answer in zip(asked, answers, strict=True) if answer is not None])
        missing = [i for i, answer in enumerate(answers) if answer is None]
        if missing and self._refresh >= self._next:
            self.counts["mllm_calls"] += len(missing)
            try:
                got = ask([pairs[i] for i in missing])
                if not isinstance(got, list) or len(got) != len(missing) or not all(_usable(what, answer) for answer in got):
                    raise TypeError(f"{len(missing)} questions, and an answer of another length or type: {got!r:.100}")
            except Exception as error:  # whatever a model or a server throws
                self.failed(f"mllm.{what}", len(missing), error)
                self.error = f"mllm.{what}: {type(error).__name__}: {error!s:.500}"
            else:
                self.counts["mllm_failures"] += sum(not answer for answer in got)
                for i, answer in zip(missing, got, strict=True):
                    answers[i] = answer
                    if asked and answer is not None:
                        self.answered.append((asked[i], answer))
        self.counts["mllm_seconds"] += time.monotonic() - start
        return answers

    def _count_recalled(self, answers: list[tuple[Asked, Answer]]) -> None:
        """Answers that this run got before it was interrupted count as calls, so that the counts are those of one run."""
        for question, answer in answers:
            again = question in self._of_this_run
            self._of_this_run.discard(question)
            self.counts["mllm_calls" if again else "mllm_recalled"] += 1
            self.counts["mllm_failures"] += again and not answer

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {
            "counts": dict(self.counts), "warned": list(self._warned), "error": self.error,
            "pause": [self._refresh, self._failed, self._next],
            "recorded": None if self.record is None else len(self.record.answers),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told; what stands in the record after it are answers that this run got later, before it ended."""
        self.counts, self._warned, self.error = dict(state["counts"]), set(state["warned"]), state["error"]
        self._refresh, self._failed, self._next = state["pause"]
        if self.record is not None and state["recorded"] is not None:
            self._of_this_run = set(list(self.record.answers)[state["recorded"] :])


def _usable(what: str, answer: Any) -> bool:
    if what == "describe" or answer is None:
        return answer is None or isinstance(answer, str)
    return isinstance(answer, list) and all(isinstance(name, str) for name in answer)
