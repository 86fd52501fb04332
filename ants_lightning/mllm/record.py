"""`Record`: every answer of an MLLM, in a JSONL file; `ReplayMLLM`: the same answers without the MLLM."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from ants_lightning.common.hashes import digest, pixel_hash
from ants_lightning.common.settings import plain_path

logger = logging.getLogger(__name__)

Answer = str | list[str]


@dataclass(frozen=True)
class Asked:
    """A question to an MLLM."""

    ask: str  # describe or similar_classes
    name: str  # the class name to avoid, or to find similar ones to
    count: int | None  # of names asked for
    image: str | None  # `pixel_hash`


FIELDS = [field.name for field in fields(Asked)]


class Record:
    """The answers of one MLLM by question, in memory and in a file that may hold those of others too.

    Each line of the file is an object. One with `identity` tells all that the answers of an MLLM depend on,
    and `mllm`, a hash of it. All others are an answer: `mllm`, the fields of `Asked`, and `answer`; null
    takes back what was answered before. The last line for a question counts. Lines that cannot be read, as a
    killed run may leave one, are skipped and counted in the log.

    An empty answer ("" or no names) is not final: a later run asks again. So `said` holds all answers, from
    which a run can be repeated to the last digit, and `answers` those that need not be asked for: all but the
    empty ones that were in the file.

    ValueError for an identity that is no JSON, and for a `path` that is no regular file, or a file with
    content but not one good line: it is somebody else's, and is not written to.

    Args:
        path: the file; need not exist yet.
        identity: of the MLLM.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity), default=str))
            self.mllm = hash_of(self.identity)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the identity of an MLLM must be what JSON can hold: {error}") from error
        self.said, self.answers = dict[Asked, Answer](), dict[Asked, Answer]()
        self.count = 0  # of lines of this MLLM, its identity left out
        self._line = dict[Asked, int]()  # on which of them a question was answered
        self._told = False  # the identity stands in the file
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no regular file: answers cannot be recorded there")
        for line in read_lines(path) if path.exists() else ():
            if line["mllm"] == self.mllm and "identity" in line:
                self._told = True
            elif line["mllm"] == self.mllm:
                self._take(
                    Asked(*(line[name] for name in FIELDS)), line["answer"], recall=bool(line["answer"])
                )

    def _take(self, asked: Asked, answer: Answer | None, recall: bool) -> dict[str, Any]:
        """Change what is in memory; the line that tells of it."""
        for known in (self.said, self.answers, self._line):
            known.pop(asked, None)
        if answer is not None:
            self.said[asked], self._line[asked] = answer, self.count
            if recall:
                self.answers[asked] = answer
        self.count += 1
        return {"mllm": self.mllm, **asdict(asked), "answer": answer}

    def since(self, count: int) -> list[Asked]:
        """The questions whose answers came after the first `count` lines of this MLLM."""
        return [asked for asked, line in self._line.items() if line >= count]

    def go_on(self, count: int) -> None:
        """Go on with a run that began at `count` lines.

        Nothing is asked again that it was answered itself, empty answers included.
        """
        self.answers.update({asked: self.said[asked] for asked in self.since(count)})

    def add(self, answered: Sequence[tuple[Asked, Answer]], write: bool = True) -> None:
        """Take answers, and append those that are new to the file.

        An OSError where that fails; they are in memory then.
        """
        lines = [
            self._take(asked, answer, recall=True) for asked, answer in answered if asked not in self.answers
        ]
        if write:
            self._append(lines)

    def forget(self, questions: Sequence[Asked], write: bool = True) -> None:
        """Take back the answers to these questions, in memory and in the file, so that they are asked again.

        An OSError as in `add`.
        """
        lines = [self._take(asked, None, recall=False) for asked in questions if asked in self.said]
        if write:
            self._append(lines)

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        if not self._told:
            lines = [{"mllm": self.mllm, "identity": self.identity}, *lines]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")  # after a torn line
            # ASCII, whatever the texts hold
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._told = True


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The good lines of a record.

    A ValueError, at the end, for a file that has content, none of which is of a record.
    """
    good, bad, ours = 0, list[int](), True
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            line = _read_line(text)
            if line is not None:
                good += 1
                yield line
            elif text.strip():
                bad.append(number)
                # Torn by a full disk or a kill
                ours = ours and (text.startswith(_START) or _START.startswith(text))
    if bad and not good and not ours:
        raise ValueError(f"{path} holds no answers of an MLLM but something else: it is left alone")
    if bad:
        logger.warning(
            "%s: %d lines could not be read and are skipped, the first is line %d", path, len(bad), bad[0]
        )


_START = b'{"mllm": "'  # of all lines that `Record` writes


def _read_line(text: bytes) -> dict[str, Any] | None:
    """A line of a record; None if it is none."""
    try:
        line = json.loads(text.decode("utf-8-sig"))
        good = isinstance(line, dict) and (_is_identity(line) if "identity" in line else _is_answer(line))
    except (ValueError, TypeError, RecursionError):
        return None
    return line if good else None


def _is_identity(line: dict[str, Any]) -> bool:
    return (
        isinstance(line["identity"], dict)
        and "answer" not in line
        and line.get("mllm") == hash_of(line["identity"])
    )


def _is_answer(line: dict[str, Any]) -> bool:
    if not {"mllm", *FIELDS, "answer"} <= set(line):
        return False
    answer, count, image = line["answer"], line["count"], line["image"]
    many = isinstance(answer, list) and all(isinstance(name, str) for name in answer)
    return (
        all(isinstance(line[name], str) for name in ("mllm", "ask", "name"))
        and (count is None or type(count) is int)
        and (image is None or isinstance(image, str))
        and (answer is None or (many if line["ask"] == "similar_classes" else isinstance(answer, str)))
    )


def hash_of(identity: Mapping[str, Any]) -> str:
    """What stands for an identity in each line: 16 hexadecimal digits."""
    return digest(json.dumps(identity, sort_keys=True).encode())[:16]


class ReplayMLLM:
    """Answers from the record of an earlier run, with no model and no GPU; what is not in it fails.

    Empty answers are repeated too. At set-up a ValueError where there is no such file, or it does not hold
    the answers of exactly one (such) MLLM.

    Args:
        record: the `mllm.jsonl` of that run.
        recorded_model: whose answers, by the `model` of its identity; None: of the only one.
    """

    replays = True  # asks nobody

    def __init__(self, record: str, recorded_model: str | None = None) -> None:
        self.path, self.name = Path(plain_path(record)), recorded_model
        self._record: Record | None = None

    def setup(self, device: torch.device) -> None:
        """Read the record."""
        if not self.path.is_file():
            raise ValueError(f"no such record: {str(self.path)!r}")
        known = {line["mllm"]: line["identity"] for line in read_lines(self.path) if "identity" in line}
        found = [
            identity for identity in known.values() if self.name is None or identity.get("model") == self.name
        ]
        if len(found) != 1:
            raise ValueError(
                f"{self.path} holds answers of {len(found)} MLLMs that fit recorded_model={self.name!r}: "
                f"{found}"
            )
        self._record = Record(self.path, found[0])

    def identity(self) -> dict[str, Any]:
        """That of the MLLM that is replayed; known after `setup`."""
        return self._opened().identity

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """See `MLLM.describe`."""
        return [
            self._look_up("describe", name, None, image) for image, name in zip(images, avoid, strict=True)
        ]

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """See `MLLM.similar_classes`."""
        pairs = zip(names, images or [None] * len(names), strict=True)
        return [self._look_up("similar_classes", name, count, image) for name, image in pairs]

    def _look_up(self, ask: str, name: str, count: int | None, image: Image | None) -> Any:
        return self._opened().said.get(Asked(ask, name, count, None if image is None else pixel_hash(image)))

    def _opened(self) -> Record:
        if self._record is None:
            raise RuntimeError("the record is not read yet: call setup(device) first")
        return self._record
