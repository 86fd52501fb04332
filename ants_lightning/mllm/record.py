"""`Record`: every answer of an MLLM, in a JSONL file; `ReplayMLLM`: the same answers without the MLLM."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

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

    Each line of the file is an object. One with `identity` tells all that the answers of an MLLM depend on, and `mllm`, a hash of
    it. All others are an answer: `mllm`, the fields of `Asked`, and `answer`. Lines that cannot be read, as a killed run may
    leave one, are skipped and counted in the log.

    Args:
        path: the file; need not exist yet.
        identity: of the MLLM.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity, self.answers = path, dict(identity), dict[Asked, Answer]()
        self.mllm = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        for line in read_lines(path) if path.is_file() else ():
            if line["mllm"] == self.mllm and "answer" in line:
                self.answers[Asked(*(line[name] for name in FIELDS))] = line["answer"]

    def add(self, answered: Sequence[tuple[Asked, Answer]], write: bool = True) -> None:
        """Take answers, and append those that are new to the file."""
        lines: list[dict[str, Any]] = [] if self.answers else [{"mllm": self.mllm, "identity": self.identity}]
        for asked, answer in answered:
            if asked not in self.answers:
                self.answers[asked] = answer
                lines.append({"mllm": self.mllm, **asdict(asked), "answer": answer})
        if not (answered and write):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")  # after a torn line
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The good lines of a record."""
    bad = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            try:
                line = json.loads(text)
                good = isinstance(line["identity"], dict) if "identity" in line else _is_answer(line)
            except (ValueError, KeyError, TypeError, RecursionError):
                good = False
            if good:
                yield line
            else:
                bad += 1
    if bad:
        logger.warning("%s: %d lines could not be read and are skipped", path, bad)


def _is_answer(line: dict[str, Any]) -> bool:
    answer = line["answer"]
    many = isinstance(answer, list) and all(isinstance(name, str) for name in answer)
    return {"mllm", *FIELDS} <= set(line) and (many if line["ask"] == "similar_classes" else isinstance(answer, str))


def pixel_hash(image: Image) -> str:
    """SHA-256 of the size and the RGB pixels of an image: the same for each file format without loss."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


class ReplayMLLM:
    """Answers from the record of an earlier run, to the last digit, with no model and no GPU; what is not in it fails.

    At set-up a ValueError where there is no such file, or it does not hold the answers of exactly one (such) MLLM.

    Args:
        record: the `mllm.jsonl` of that run.
        recorded_model: whose answers, by the `model` of its identity; None: of the only one.
    """

    def __init__(self, record: str, recorded_model: str | None = None) -> None:
        self.path, self.name = Path(record), recorded_model
        self._record: Record | None = None

    def setup(self, device: torch.device) -> None:
        """Read the record."""
        if not self.path.is_file():
            raise ValueError(f"no such record: {str(self.path)!r}")
        known = {line["mllm"]: line["identity"] for line in read_lines(self.path) if "identity" in line}
        found = [identity for identity in known.values() if self.name is None or identity.get("model") == self.name]
        if len(found) != 1:
            raise ValueError(f"{self.path} holds answers of {len(found)} MLLMs that fit recorded_model={self.name!r}: {found}")
        self._record = Record(self.path, found[0])

    def identity(self) -> dict[str, Any]:
        """That of the MLLM that is replayed; known after `setup`."""
        return self._opened().identity

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """See `MLLM.describe`."""
        return [self._look_up("describe", name, None, image) for image, name in zip(images, avoid, strict=True)]

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """See `MLLM.similar_classes`."""
        pairs = zip(names, images or [None] * len(names), strict=True)
        return [self._look_up("similar_classes", name, count, image) for name, image in pairs]

    def _look_up(self, ask: str, name: str, count: int | None, image: Image | None) -> Any:
        return self._opened().answers.get(Asked(ask, name, count, None if image is None else pixel_hash(image)))

    def _opened(self) -> Record:
        if self._record is None:
            raise RuntimeError("the record is not read yet: call setup(device) first")
        return self._record
