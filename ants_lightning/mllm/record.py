"""`Record`: every answer of an MLLM, in a JSONL file; `ReplayMLLM`: the same answers without the MLLM."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

logger = logging.getLogger(__name__)

Answer = str | list[str]


class Record:
    """Answers by question.

    A line of the file is one question and its `answer`: `mllm`, what answered (`ChatMLLM.identity`); `ask`, `describe` or
    `similar_classes`; `name`, the class name to avoid or to find similar ones to; `count` of names asked for, or null; `image`,
    SHA-256 of the pixels, or null. Lines that cannot be read, as a killed run may leave one, are skipped and counted in the log.

    Args:
        path: the file; None keeps answers in memory only.
        mllm: keep only the answers of this one; None: of all.
    """

    def __init__(self, path: Path | None = None, mllm: Mapping[str, Any] | None = None) -> None:
        self.path, self.answers = path, dict[str, Answer]()
        self.mllms = list[dict[str, Any]]()  # all that the file holds answers of
        for question, answer in _read(path) if path and path.is_file() else ():
            if question["mllm"] not in self.mllms:
                self.mllms.append(question["mllm"])
            if mllm is None or question["mllm"] == mllm:
                self.answers[_key(question)] = answer

    def __len__(self) -> int:
        return len(self.answers)

    def get(self, question: Mapping[str, Any]) -> Answer | None:
        """The answer to a question, or None."""
        return self.answers.get(_key(question))

    def add(self, answered: Sequence[tuple[dict[str, Any], Answer]], write: bool = True) -> None:
        """Take answers, and append those that are new to the file."""
        new = [(question, answer) for question, answer in answered if _key(question) not in self.answers]
        self.answers.update({_key(question): answer for question, answer in new})
        if not (new and self.path and write):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")  # after a torn line
            file.write("".join(json.dumps({**q, "answer": a}) + "\n" for q, a in new).encode())


def question_of(mllm: Mapping[str, Any], ask: str, name: str, count: int | None, image: Image | None) -> dict[str, Any]:
    """A question as it stands in the file."""
    return {"mllm": dict(mllm), "ask": ask, "name": name, "count": count, "image": None if image is None else pixel_hash(image)}


def pixel_hash(image: Image) -> str:
    """SHA-256 of the size and the RGB pixels of an image: the same for each file format without loss."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


class ReplayMLLM:
    """Answers from the record of an earlier run, to the last digit, with no model and no GPU; what is not in it fails.

    ValueError where the file holds no answers, or those of several MLLMs and `model` does not name one.

    Args:
        record: the `mllm.jsonl` of that run.
        model: whose answers, by the name in the file.
    """

    def __init__(self, record: str, model: str | None = None) -> None:
        self.path, self.name = Path(record), model
        self._identity: dict[str, Any] | None = None

    def setup(self, device: torch.device) -> None:
        """Read the record."""
        if not self.path.is_file():
            raise ValueError(f"no such record: {str(self.path)!r}")
        found = [mllm for mllm in Record(self.path).mllms if self.name is None or mllm.get("model") == self.name]
        if len(found) != 1:
            raise ValueError(f"{self.path} holds answers of {len(found)} MLLMs that fit model={self.name!r}: {found}")
        self._identity = found[0]
        self._record = Record(self.path, found[0])

    def identity(self) -> dict[str, Any]:
        """That of the MLLM that is replayed."""
        if self._identity is None:
            raise RuntimeError("the record is not read yet: call setup(device) first")
        return self._identity

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[Answer | None]:
        """See `MLLM.describe`."""
        return [self._look_up("describe", name, None, image) for image, name in zip(images, avoid, strict=True)]

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[Answer | None]:
        """See `MLLM.similar_classes`."""
        pairs = zip(names, images or [None] * len(names), strict=True)
        return [self._look_up("similar_classes", name, count, image) for name, image in pairs]

    def _look_up(self, ask: str, name: str, count: int | None, image: Image | None) -> Answer | None:
        return self._record.get(question_of(self.identity(), ask, name, count, image))


def _read(path: Path) -> Iterator[tuple[dict[str, Any], Answer]]:
    torn = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                question = json.loads(line)
                answer = question.pop("answer")
                if not _is_answer(answer) or not isinstance(question["mllm"], dict):
                    raise TypeError(answer)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                torn += 1
            else:
                yield question, answer
    if torn:
        logger.warning("%s: %d lines could not be read and are skipped", path, torn)


def _key(question: Mapping[str, Any]) -> str:
    return json.dumps(question, sort_keys=True)


def _is_answer(answer: Any) -> bool:
    return isinstance(answer, str) or (isinstance(answer, list) and all(isinstance(name, str) for name in answer))
