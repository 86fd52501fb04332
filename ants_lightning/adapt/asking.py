"""`Asker`: shares the questions to the MLLM over the ranks, and brings the answers together."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from PIL.Image import Image
from torch import Tensor

from ants_lightning.adapt.bank import Rows
from ants_lightning.data.raw import RawImages
from ants_lightning.distributed import gather_json
from ants_lightning.mllm.first_question import ask_first
from ants_lightning.mllm.guard import Guard
from ants_lightning.mllm.record import Asked

logger = logging.getLogger(__name__)

Sentences = dict[int, str | None]  # by row of the bank
Names = dict[str, list[str] | None]  # similar names by class


class Asker:
    """Asks the MLLM for this rank's share of one stream.

    What it returns is brought together by `exchange`, which all ranks call at once.

    Images are read and shown `Guard.at_once` at a time: no more of them are in memory, however many a refresh
    has.

    Args:
        guard: the MLLM.
        images: of the stream.
        rank, world: which share, of how many.
        show_images: show an image beside a class name (VSNL with eyes).
        on_failure: `raise`: `exchange` raises on all ranks when the MLLM of one of them did.
    """

    def __init__(
        self, guard: Guard, images: RawImages, rank: int, world: int, show_images: bool, on_failure: str
    ) -> None:
        guard.reset()
        self.guard, self.images, self.rank, self.world = guard, images, rank, world
        self.show_images, self.on_failure = show_images, on_failure
        self.counts = dict(guard.counts)  # of all ranks
        self.cause = guard.error  # the last error of any rank, of the stream before at first

    def describe(self, bank: Rows, rows: Tensor, class_names: Sequence[str]) -> Sentences:
        """The sentences of this rank's images by row of the bank (eq. 7).

        A sentence is "" where the image cannot be read again, and None where the MLLM failed.
        """
        mine: list[int] = rows[bank["owner"][rows] == self.rank].tolist()
        said: Sentences = dict.fromkeys(mine, "")
        for start in range(0, len(mine), self.guard.at_once):
            said |= self._describe(bank, mine[start : start + self.guard.at_once], class_names)
        return said

    def _describe(self, bank: Rows, rows: Sequence[int], class_names: Sequence[str]) -> Sentences:
        """In a frame of its own: these images are let go before the next are read."""
        images = self._images(bank, rows)
        avoid = [class_names[c] for c in bank["prediction"][list(images)].tolist()]
        return dict(zip(images, self.guard.describe(list(images.values()), avoid), strict=True))

    def similar_names(self, names: Sequence[str], count: int) -> Names:
        """Similar names by class, for this rank's share; ranks take turns."""
        share = names[self.rank :: self.world]
        return dict(zip(share, self.guard.similar_classes(share, count), strict=True))

    def similar_classes(self, bank: Rows, negative: Tensor, names: Mapping[int, str], count: int) -> Names:
        """`similar_names` of classes by ID label (eq. 11).

        Where images are shown, the rank that holds a class's negative image of lowest S_nl asks about it.
        """
        if not self.show_images:
            return self.similar_names(list(names.values()), count)
        share = dict[int, int | None]()
        for place, c in enumerate(names):
            rows = negative[bank["prediction"][negative] == c]
            row = int(rows[bank["id_score"][rows].argmin()]) if len(rows) else None
            if (place % self.world if row is None else int(bank["owner"][row])) == self.rank:
                share[c] = row
        found, classes = dict[str, list[str] | None](), list(share)
        for start in range(0, len(classes), self.guard.at_once):
            part = {c: share[c] for c in classes[start : start + self.guard.at_once]}
            found |= self._similar_by_eye(bank, part, names, count)
        return found

    def _similar_by_eye(
        self, bank: Rows, rows: Mapping[int, int | None], names: Mapping[int, str], count: int
    ) -> Names:
        images = self._images(bank, [row for row in rows.values() if row is not None])
        shown = [None if row is None else images.get(row) for row in rows.values()]
        mine = [names[c] for c in rows]
        return dict(zip(mine, self.guard.similar_classes(mine, count, shown), strict=True))

    def _images(self, bank: Rows, rows: Sequence[int]) -> dict[int, Image]:
        """Images by row of the bank, as far as they can be had."""
        images = {}
        for row in rows:
            try:
                images[row] = self.images[int(bank["index"][row])]
            except Exception as error:  # whatever an image decoder throws
                self.guard.unread(error)
        return images

    def exchange(self, sentences: Sentences, names: Names) -> tuple[dict[int, str], dict[str, list[str]]]:
        """The answers of all ranks, without those that failed.

        All of them go into the record, and `counts` are added up.
        """
        guard = self.guard
        answered = [[*astuple(asked), answer] for asked, answer in guard.answered]
        parts = gather_json([list(sentences.items()), names, guard.counts, answered, guard.error])
        all_sentences, all_names = dict[int, str](), dict[str, list[str]]()
        for some_sentences, some_names, _, some_answered, _ in parts:
            all_sentences.update({row: text for row, text in some_sentences if text is not None})
            all_names.update({name: answer for name, answer in some_names.items() if answer is not None})
            guard.keep([(Asked(*asked), answer) for *asked, answer in some_answered], write=self.rank == 0)
        self.counts = {key: sum(counts[key] for _, _, counts, _, _ in parts) for key in self.counts}
        errors = [f"rank {i}: {part[-1]}" for i, part in enumerate(parts) if part[-1]]
        self.cause = errors[-1] if errors else self.cause
        if errors and self.on_failure == "raise":  # on all ranks, so that none waits for another
            raise RuntimeError("; ".join(errors))
        return all_sentences, all_names

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {"counts": self.counts, "cause": self.cause, "guard": self.guard.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told."""
        self.counts, self.cause = state["counts"], state["cause"]
        self.guard.restore(state["guard"])


def ask_before_the_stream(guard: Guard, name: str, count: int, go_on: bool) -> None:
    """Refuse to begin with an MLLM that cannot answer; on all ranks, so that none waits for another.

    Args:
        guard: the MLLM.
        name: an ID class.
        count: how many similar names are asked for.
        go_on: warn in place of a RuntimeError.
    """
    try:
        with guard.question():
            why, slow = ask_first(guard.mllm, name, count), ""
    except TimeoutError as error:
        why, slow = "", f"TimeoutError: {error}"
    whys = [f"rank {i}: {one}" for i, one in enumerate(gather_json(why)) if one]
    if whys and not go_on:
        raise RuntimeError(
            f"the MLLM cannot answer, so nothing would be learnt from the streams: {'; '.join(whys)}. Mend "
            "it, give NegativeMemory no MLLM to evaluate MCM and NegLabel alone, or run all the same with "
            "NegativeMemory(on_failure='continue')"
        )
    if whys or slow:
        reason = slow or "; ".join(whys)
        logger.warning("before the stream the MLLM gave no answer; the run goes on all the same: %s", reason)
