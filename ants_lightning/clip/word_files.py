"""Reading text files that people write: lists of words or names, and label banks."""

import codecs
import json
import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ants_lightning.common.settings import plain_path
from ants_lightning.common.text import one_line

logger = logging.getLogger(__name__)

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER = (".csv", ".tsv", ".yaml", ".yml", ".toml", ".xml", ".jsonl")
_FORMS = 'a list of names, {"0": name, …}, {"0": [id, name], …} or {name: 0, …}, with labels from 0 on'


def read_text(path: Path | str, what: str) -> str:
    """The text of a regular file: UTF-8, with or without a byte-order mark, or UTF-16 or UTF-32 with one.

    ValueError, with `what` and the file, if there is no such file, it cannot be read or has another encoding.
    """
    path = str(plain_path(path))
    if not os.path.isfile(path):  # no folder, no named pipe, no name that is too long
        raise ValueError(f"{what}: no such file: {path[:200]!r}")
    try:
        content = Path(path).read_bytes()
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8-sig")
        text = content.decode(encoding)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{what}: {path!r} is not UTF-8 text: {error}") from error
    if "\0" in text:
        raise ValueError(f"{what}: {path!r} is not UTF-8 text: it holds NUL (UTF-16 without a mark?)")
    return text


def read_lines(path: Path | str, what: str, clean: bool = False) -> list[str]:
    """The lines of a file of `read_text`, stripped; blank ones are kept, but not those at the end.

    Args:
        path: of the file.
        what: the subject of errors and warnings.
        clean: remove control characters, with a warning; else a line with one is a ValueError.
    """
    lines = [line.strip() for line in read_text(path, what).rstrip().splitlines()]
    bad = [i for i, line in enumerate(lines) if bad_character(line)]
    if bad and not clean:
        line = lines[bad[0]]
        raise ValueError(
            f"{what}: line {bad[0] + 1} of {str(path)!r} holds {bad_character(line)!r}: {line[:80]!r}"
        )
    if bad:
        found = f"{len(bad)} lines of {one_line(str(path))} hold control characters"
        logger.warning("%s: %s, which are left out", what, found)
        lines = [one_line(line) if bad_character(line) else line for line in lines]
    return lines


def bad_character(text: str) -> str:
    r"""The first control character, line break or lone surrogate in a text; "" if there is none.

    They must reach neither the tokenizer nor a terminal.

    >>> bad_character("a\x1b[31mb"), bad_character("crème brûlée")
    ('\x1b', '')
    """
    bad = (character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"))
    return next(bad, "")


def as_lines(texts: Sequence[str]) -> dict[str, int]:
    r"""Texts as lines of a file, each once, with the place of the first text that gives it.

    A text with control characters is cleaned; a text of which nothing is left gives no line.

    >>> as_lines(["a b", "a\nb", " ", "c\n"])
    {'a b': 0, 'c': 3}
    """
    found = dict[str, int]()
    for place, text in enumerate(texts):
        if line := one_line(text) if bad_character(text.strip()) else text.strip():
            found.setdefault(line, place)
    return found


def read_list(path: Path | str, what: str) -> list[str]:
    """The names or words in a file: its lines (`read_lines`), or JSON in a form that data sets come with.

    ValueError, with `what` and the file, for JSON of another form, and for a file name that ends like that of
    a table or a configuration (such as `.csv` or `.yaml`).
    """
    suffix = Path(path).suffix.lower()
    if suffix in _OTHER:
        raise ValueError(
            f"{what}: {str(path)!r} is no list: give a text file with one a line, or JSON ({_FORMS})"
        )
    text = read_text(path, what)
    if suffix != ".json" and not re.match(r"\s*[\[{]\s*[\"\[{]", text):
        return read_lines(path, what)
    try:
        found = _names(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {str(path)!r} is not JSON: {error}") from error
    if found is None:
        raise ValueError(f"{what}: the JSON of {str(path)!r} is none of: {_FORMS}")
    for i, name in enumerate(found):
        if bad_character(name):
            raise ValueError(
                f"{what}: name {i} of {str(path)!r} holds {bad_character(name)!r}: {name[:80]!r}"
            )
    return found


def _names(content: Any) -> list[str] | None:
    """The names of JSON by label; None for another form."""
    if isinstance(content, dict):
        if all(_is_label(label) for label in content.values()):
            if len({*content.values()}) < len(content):  # a label that two names have
                return None
            content = {str(label): name for name, label in content.items()}
        content = _by_label(content)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        return None
    return [name.strip() for name in content]


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _by_label(names: dict[str, Any]) -> Sequence[Any] | None:
    """The names of `{"0": name}` or `{"0": [id, name]}` by label 0, 1, …; None for another form."""
    if not names or set(names) != {str(i) for i in range(len(names))}:
        return None
    found = [names[str(i)] for i in range(len(names))]
    pairs = [name for name in found if isinstance(name, list) and len(name) == 2]
    return [name for _, name in pairs] if len(pairs) == len(found) else found
