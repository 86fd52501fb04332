"""`Guard`: asks an MLLM, counts and times, and lets no failure through."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from ants_lightning.mllm.base import MLLM

logger = logging.getLogger(__name__)


class Guard:
    """An MLLM that never ends the run: what it fails at is None, logged once a kind, and counted.

    `counts` holds `mllm_calls` (questions, one an image or a class), `mllm_failures` (those without a usable answer) and
    `mllm_seconds`.
    """

    def __init__(self, mllm: MLLM) -> None:
        self.mllm = mllm
        self._warned: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        self.counts = {"mllm_calls": 0, "mllm_failures": 0, "mllm_seconds": 0.0}

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """`MLLM.describe`, None where it failed (to be asked again)."""
        return self._ask("describe", lambda: self.mllm.describe(images, avoid), len(images))

    def similar_classes(self, names: Sequence[str], count: int) -> list[list[str] | None]:
        """`MLLM.similar_classes`, None where it failed (to be asked again)."""
        return self._ask("similar_classes", lambda: self.mllm.similar_classes(names, count), len(names))

    def failed(self, what: str, count: int, error: Exception) -> None:
        """Count failures and say so, the first time for each kind."""
        self.counts["mllm_failures"] += count
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s failed (%s: %s); the run goes on without", what, type(error).__name__, error)

    def _ask(self, what: str, call: Callable[[], list[Any]], count: int) -> list[Any]:
        if not count:
            return []
        start = time.monotonic()
        self.counts["mllm_calls"] += count
        try:
            answers = call()
            if len(answers) != count:
                raise ValueError(f"{count} questions, {len(answers)} answers")
            self.counts["mllm_failures"] += sum(not answer for answer in answers)
        except Exception as error:
            answers = [None] * count
            self.failed(f"mllm.{what}", count, error)
        self.counts["mllm_seconds"] += time.monotonic() - start
        return answers
