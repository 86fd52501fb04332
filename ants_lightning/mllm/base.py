"""The protocol of an MLLM, its prompts, and what all backends that answer a prompt have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Protocol, runtime_checkable

import torch
from PIL.Image import Image, Resampling

from ants_lightning.common.settings import check_counts, plain
from ants_lightning.mllm.parsing import parse_names, parse_sentence

DESCRIBE_PROMPT = "Describe the main object in this image in a few words. Do not use the word {name}."
SIMILAR_PROMPT = "Name {count} other classes that look like a {name}. Answer with the names only."
SIMILAR_IMAGE_PROMPT = "This was taken for a {name}. " + SIMILAR_PROMPT


@runtime_checkable
class MLLM(Protocol):
    """A multimodal LLM. Answers come in the order of the questions.

    An empty answer means "nothing usable"; None, that this question failed and may be asked again; an
    exception, that all failed. A builtin TimeoutError or ConnectionError means that it is gone: nothing more
    is asked in this refresh. One with a method `identity() -> dict[str, Any]`, which tells all that its
    answers depend on, is recorded (`mllm.record`). An attribute `at_once: int` tells how many questions are
    worth giving in one call; without it they are 32.
    """

    def setup(self, device: torch.device) -> None:
        """Get ready, once a rank and before the stream starts; raise here what is wrong with the settings."""

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """A few words for each image, without its predicted class name in `avoid` (ANTS eq. 7)."""

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """For each class up to `count` other class names that share visual features with it (ANTS eq. 11).

        `images`, given only with `VSNL(show_images=True)`: a likely-OOD image taken for the class, or None.
        """


@dataclass(frozen=True)
class Question:
    """One prompt, with or without an image."""

    text: str
    image: Image | None = None
    names: bool = False  # it asks for a list of names


class ChatMLLM:
    """An MLLM that takes prompts with at most one image.

    It makes the prompts and parses the answers; a backend has `answer`.

    ValueError for a prompt with an unknown field or a size below 1.

    Args:
        max_new_tokens: per answer.
        max_image_side: larger images are made smaller, in pixels; None: as they are.
        describe_prompt: asks for a few words on an image; `{name}` is the class name to avoid.
        similar_prompt: asks for similar classes; `{name}` and `{count}` are filled in.
        similar_image_prompt: the same beside an image that was taken for `{name}`.

    Attributes:
        at_once: questions worth giving in one call: fewer leave the MLLM idle, more only make the call
            longer.
        heard: the first answer of the last call, as it was given, to tell the user what could not be used.
    """

    at_once: int = 32
    heard: str = ""

    def __init__(
        self,
        max_new_tokens: int = 48,
        max_image_side: int | None = None,
        describe_prompt: str = DESCRIBE_PROMPT,
        similar_prompt: str = SIMILAR_PROMPT,
        similar_image_prompt: str = SIMILAR_IMAGE_PROMPT,
    ) -> None:
        max_new_tokens, max_image_side = plain((max_new_tokens, max_image_side))
        check_counts(max_new_tokens=max_new_tokens)
        if max_image_side is not None:
            check_counts(max_image_side=max_image_side)
        self.prompts = {
            "describe": describe_prompt,
            "similar": similar_prompt,
            "similar_image": similar_image_prompt,
        }
        for name, prompt in self.prompts.items():
            unknown = {field for _, field, _, _ in Formatter().parse(prompt) if field is not None} - {
                "name",
                "count",
            }
            if unknown:
                raise ValueError(f"{name}_prompt has unknown fields {sorted(unknown)}: {prompt!r}")
        self.max_new_tokens, self.max_image_side = max_new_tokens, max_image_side

    def setup(self, device: torch.device) -> None:
        """See `MLLM.setup`."""

    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """The raw answers; None for those that failed. Raises when all did, as `MLLM` says."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """All that the answers depend on, besides the question."""
        return {
            "prompts": self.prompts,
            "max_new_tokens": self.max_new_tokens,
            "max_image_side": self.max_image_side,
        }

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """See `MLLM.describe`; "" where the answer held nothing."""
        pairs = zip(images, avoid, strict=True)
        answers = self._heard(
            self.answer([self._question("describe", image, {"name": name}) for image, name in pairs])
        )
        return [None if answer is None else parse_sentence(answer) for answer in answers]

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """See `MLLM.similar_classes`."""
        pairs = zip(names, images or [None] * len(names), strict=True)
        answers = self._heard(
            self.answer(
                [
                    self._question(
                        "similar" if image is None else "similar_image", image, {"name": name, "count": count}
                    )
                    for name, image in pairs
                ]
            )
        )
        return [None if answer is None else parse_names(answer, count) for answer in answers]

    def _question(self, kind: str, image: Image | None, fields: Mapping[str, Any]) -> Question:
        if image is not None and self.max_image_side and max(image.size) > self.max_image_side:
            image = image.copy()
            image.thumbnail((self.max_image_side, self.max_image_side), Resampling.BICUBIC)
        return Question(self.prompts[kind].format(**{"count": "", **fields}), image, names=kind != "describe")

    def _heard(self, answers: list[str | None]) -> list[str | None]:
        self.heard = next((answer for answer in answers if answer), "")
        return answers
