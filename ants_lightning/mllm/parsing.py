"""Parsing of what an MLLM answers, which is untrusted text."""

import contextlib
import json
import re
import unicodedata

_LONGEST = 2000  # characters of an answer that are looked at
_LONGEST_SENTENCE, _LONGEST_NAME = 300, 60  # characters of what comes out
_QUOTES = " \"'`“”‘’«»"
_BULLET = re.compile(r"^\s*(?:[-*•·]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+")


def parse_sentence(answer: str, max_words: int = 30) -> str:
    r"""The first line of an answer as plain text of at most `max_words` words and 300 characters; "" if there is none.

    >>> parse_sentence(' "A small  red bird.\n\nIs there anything else?')
    'A small red bird.'
    """
    for line in _clean(answer).splitlines():
        text = " ".join(_BULLET.sub("", line).split()[:max_words])[:_LONGEST_SENTENCE].strip(_QUOTES + "*_")
        if any(character.isalnum() for character in text):
            return text
    return ""


def parse_names(answer: str, count: int) -> list[str]:
    r"""At most `count` different names of up to four words and 60 characters from an answer: a JSON list, or lines or commas.

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
        if len(name) <= _LONGEST_NAME and len(name.split()) <= 4 and any(character.isalpha() for character in name):
            names.setdefault(name.lower(), name)
    return list(names.values())[:count]


def _clean(answer: str | None) -> str:
    return "".join(c for c in str(answer or "")[:_LONGEST] if c in "\n\t" or unicodedata.category(c)[0] != "C")
