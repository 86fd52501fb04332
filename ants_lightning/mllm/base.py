"""The protocol of an MLLM, its two prompts, and the parsing of its answers, which are untrusted text."""

import contextlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from PIL.Image import Image

DESCRIBE_PROMPT = "Describe the main object in this image in a few words. Do not use the word {name}."
SIMILAR_PROMPT = "Name {count} other classes that look like a {name}. Answer with the names only."

_LONGEST = 2000  # characters of an answer that are looked at
_QUOTES = " \"'`“”‘’«»"
_BULLET = re.compile(r"^\s*(?:[-*•·]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+")


@runtime_checkable
class MLLM(Protocol):
    """A multimodal LLM. Answers come in the order of the questions; an empty answer means "nothing usable"."""

    def setup(self, device: torch.device) -> None:
        """Load, once a rank and before the stream starts; raise here what is wrong with the settings."""

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str]:
        """A few words for each image, without its predicted class name in `avoid` (ANTS eq. 7)."""

    def similar_classes(self, names: Sequence[str], count: int = 5) -> list[list[str]]:
        """For each class up to `count` other class names that share visual features with it (ANTS eq. 11)."""


def parse_sentence(answer: str, max_words: int = 30) -> str:
    r"""The first line of an answer as plain text of at most `max_words` words; "" if there is none.

    >>> parse_sentence(' "A small  red bird.\n\nIs there anything else?')
    'A small red bird.'
    """
    for line in _clean(answer).splitlines():
        text = " ".join(_BULLET.sub("", line).split()[:max_words]).strip(_QUOTES + "*_")
        if any(character.isalnum() for character in text):
            return text
    return ""


def parse_names(answer: str, count: int) -> list[str]:
    r"""At most `count` different names of up to four words from an answer: a JSON list, or lines or commas.

    >>> parse_names("Sure! Here are five classes you may like:\n1. Wolf\n2. red fox, coyote\n", 5)
    ['Wolf', 'red fox', 'coyote']
    """
    text = _clean(answer)
    items: list[str] | None = None
    with contextlib.suppress(ValueError, RecursionError):  # no JSON in it
        found = json.loads(text[text.index("[") : text.rindex("]") + 1])
        items = [_clean(item) for item in found if isinstance(item, str)]  # JSON can escape what was cleaned away
    if items is None:
        items = [part for line in text.splitlines() for part in re.split(r"[,;]|\band\b", _BULLET.sub("", line))]
    names: dict[str, str] = {}
    for item in items:
        name = " ".join(_BULLET.sub("", item).split()).strip(_QUOTES + ".:!?*_[](){}")
        if len(name.split()) <= 4 and any(character.isalpha() for character in name):
            names.setdefault(name.lower(), name)
    return list(names.values())[:count]


def _clean(answer: str | None) -> str:
    return "".join(c for c in str(answer or "")[:_LONGEST] if c in "\n\t" or unicodedata.category(c)[0] != "C")
