"""Class names and words as a user gives them: checked, and in plain lists."""

import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from ants_lightning.clip.word_files import bad_character, read_list
from ants_lightning.common.settings import plain

logger = logging.getLogger(__name__)

_SYNSET = re.compile(r"[nvars]\d{8}\b")  # WordNet's id, as ImageNet's folders have it
_CODE = re.compile(r"\d+|(?=.*\d)[0-9a-f]{6,}|(?:class|label|category|cls|id|c|n)?[ _-]?\d+", re.IGNORECASE)
_SHOWN = 3


def checked_class_names(given: Any) -> list[str]:
    """Class names as a list of str, stripped; of a str, the file with that name.

    ValueError for none, one that is empty, no string, given twice, or has a control character, for WordNet's ids, and for what has
    no order.
    """
    if isinstance(given, str):
        given = read_list(given, "class_names")
    given = plain(given)
    if given is not None and not isinstance(given, list):
        raise ValueError(f"class_names must be a list of class names, in the order of the labels, got {_short(given)}")
    if not given:
        raise ValueError("no class names: give ANTS(class_names=[…]) or a data module with a `class_names` attribute")
    names = dict[str, int]()
    for i, name in enumerate(given):
        stripped = name.strip() if isinstance(name, str) else ""
        if not stripped or stripped in names:
            raise ValueError(f"class name {i} is empty, no string or given twice: {name!r}")
        if bad_character(stripped):
            raise ValueError(f"class name {i} holds {bad_character(stripped)!r}: {name!r}")
        names[stripped] = i
    if all(_SYNSET.match(name) for name in names):
        raise ValueError(
            f"class_names are WordNet ids ({_some(list(names))}), which tell CLIP nothing: give names in words, by label "
            "(`data.class_names.CLASS_NAMES['imagenet1k']` has ImageNet's)"
        )
    return list(names)


def warn_of_codes(names: list[str]) -> None:
    """A warning where most class names look like codes; no error, since digits ("0" to "9") may be what the images show."""
    codes = [name for name in names if _CODE.fullmatch(name) or _SYNSET.fullmatch(name)]
    if len(codes) > len(names) / 2:
        found = f"{len(codes)} of {len(names)} class names look like codes ({_some(codes)})"
        logger.warning("%s, which tell CLIP nothing: if so, give class_names in words", found)


def checked_words(name: str, given: Any, of_wordnet: Callable[[], list[str]]) -> list[str]:
    """Words as a list of str, stripped, each once; of the str `wordnet` those of WordNet, of another str the file with that name.

    Blank and repeated words are left out and counted in the log. ValueError for what is no list, a word that is no string, and a
    control character.
    """
    if isinstance(given, str) and given == "wordnet":
        return of_wordnet()
    if isinstance(given, str):
        given = read_list(given, f"{name} (`wordnet`, or a file with one word a line)")
    given = plain(given)
    if not isinstance(given, list):
        raise ValueError(f"{name} must be a list of words, a file, or `wordnet`, got {_short(given)}")
    for i, word in enumerate(given):
        if not isinstance(word, str):
            raise ValueError(f"{name}: word {i} is no string: {_short(word)}")
        if bad_character(word.strip()):
            raise ValueError(f"{name}: word {i} holds {bad_character(word.strip())!r}: {_short(word)}")
    counts = Counter(word.strip() for word in given)
    blank = counts.pop("", 0)
    if repeated := counts.total() - len(counts):
        logger.info("%s: %s words were given more than once and count once", name, repeated)
    if blank:
        logger.info("%s: %s blank words are left out", name, blank)
    return list(counts)


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


def _short(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.80}"
