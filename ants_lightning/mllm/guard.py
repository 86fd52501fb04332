"""`Guard`: asks an MLLM, counts and times, and lets no failure through."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from ants_lightning.mllm.base import MLLM

logger = logging.getLogger(__name__)


class Guard:
    """An MLLM that never ends the run: what it fails at is None (to be asked again), counted, and logged once a kind.

    `counts` holds `mllm_calls` (questions, one an image or a class), `mllm_failures` (those without a usable answer)
    and `mllm_seconds`.
    """

    def __init__(self, mllm: MLLM) -> None:
        self.mllm = mllm
        self._warned: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        self.counts = {"mllm_calls": 0, "mllm_failures": 0, "mllm_seconds": 0.0}

    def failed(self, what: str, count: int, error: Exception) -> None:
        """Count failures; say so the first time for each kind."""
        self.counts["mllm_failures"] += count
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s failed (%s: %s); the run goes on without", what, type(error).__name__, error)

    def ask(self, what: str, questions: Sequence[Any], detail: Any) -> list[Any]:
        """`MLLM.describe` or `MLLM.similar_classes`, by name; None for each question that it fails at."""
        if not questions:
            return []
        start = time.monotonic()
        self.counts["mllm_calls"] += len(questions)
        try:
            answers = getattr(self.mllm, what)(questions, detail)
            if len(answers) != len(questions):
                raise ValueError(f"{len(questions)} questions, {len(answers)} answers")
            if not isinstance(answers, list) or not all(_usable(what, answer) for answer in answers):
                raise TypeError(f"answers of another type: {answers!r:.100}")
            self.counts["mllm_failures"] += sum(not answer for answer in answers)
        except Exception as error:  # whatever a model or a server throws
            answers = [None] * len(questions)
            self.failed(f"mllm.{what}", len(questions), error)
        self.counts["mllm_seconds"] += time.monotonic() - start
        return answers


def _usable(what: str, answer: Any) -> bool:
    if what == "describe" or answer is None:
        return answer is None or isinstance(answer, str)
    return isinstance(answer, list) and all(isinstance(name, str) for name in answer)
