"""Class names and words from what a user gives: checked, in plain lists, and as texts in prompts."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ants_lightning.clip import wordnet
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.clip.word_files import bad_character, read_list
from ants_lightning.common.settings import plain
from ants_lightning.method.negatives import without_names

logger = logging.getLogger(__name__)

_SYNSET = re.compile(r"[nvars]\d{8}\b")  # WordNet's id, as ImageNet's folders have it
_CODE = re.compile(r"\d+|(?=.*\d)[0-9a-f]{6,}|(?:class|label|category|cls|id|c|n)?[ _-]?\d+", re.IGNORECASE)
_SHOWN = 3


def checked_class_names(given: Any) -> list[str]:
    """Class names as a list of str, stripped.

    ValueError for no names; for a name that is empty, no string, given twice or has a control character; for
    WordNet's ids; and for what has no order, such as a set.

    Args:
        given: names in the order of the labels, or a str, the path of a file with them.
    """
    if isinstance(given, str):
        given = read_list(given, "class_names")
    given = plain(given)
    if given is not None and not isinstance(given, list):
        raise ValueError(
            f"class_names must be a list of class names, in the order of the labels, got {_short(given)}"
        )
    if not given:
        raise ValueError(
            "no class names: give ANTS(class_names=[…]) or a data module with a `class_names` attribute"
        )
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
            f"class_names are WordNet ids ({_some(list(names))}), which tell CLIP nothing: give names in "
            "words, by label (`data.class_names.class_names_of('imagenet1k')` has ImageNet's)"
        )
    return list(names)


def warn_of_codes(names: list[str]) -> None:
    """Log a warning where most class names look like codes.

    It is no error: digits, "0" to "9", may be what the images show.
    """
    codes = [name for name in names if _CODE.fullmatch(name) or _SYNSET.fullmatch(name)]
    if len(codes) > len(names) / 2:
        found = f"{len(codes)} of {len(names)} class names look like codes ({_some(codes)})"
        logger.warning("%s, which tell CLIP nothing: if so, give class_names in words", found)


def checked_words(name: str, given: Any, of_wordnet: Callable[[], list[str]]) -> list[str]:
    """Words as a list of str, stripped, each once.

    Blank and repeated words are left out and counted in the log. ValueError for what is no list, a word that
    is no string, and a control character.

    Args:
        name: of the setting, for errors.
        given: a list of words; the str `wordnet`; or another str, the path of a file with words.
        of_wordnet: gives the words for `wordnet`.
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


def check_distinct(class_names: Sequence[str], prompts: Prompts, encoder: TextEncoder) -> None:
    """Raise a ValueError where the text tower cannot tell two class names apart."""
    if same := encoder.first_same(in_prompt(prompts.id, class_names)):
        first, second = (class_names[i] for i in same)
        raise ValueError(
            f"class_names {first!r} and {second!r} are one to this model: its tokenizer makes the same of "
            "both (case, blanks, unknown words and what is beyond its context do not count), so that no "
            "image could be told to be of the second"
        )


@dataclass(frozen=True)
class Vocabulary:
    """The words, each once, that negative labels are mined from, and the prompts that make texts of them."""

    nouns: list[str]
    adjectives: list[str]
    prompts: Prompts

    @classmethod
    def read(cls, settings: Negatives, prompts: Prompts) -> "Vocabulary":
        """The words that the settings name; ValueError as of `checked_words`."""
        nouns = checked_words("negatives.nouns", settings.nouns, wordnet.nouns)
        adjectives = checked_words("negatives.adjectives", settings.adjectives, wordnet.adjectives)
        return cls(nouns, adjectives, prompts)

    def __len__(self) -> int:
        """Number of words."""
        return len(self.nouns) + len(self.adjectives)

    def without(self, class_names: Sequence[str]) -> "Vocabulary":
        """The vocabulary without words that are ID class names (`method.negatives.without_names`)."""
        nouns, adjectives = (without_names(words, class_names) for words in (self.nouns, self.adjectives))
        return replace(self, nouns=nouns, adjectives=adjectives)

    def texts(self) -> tuple[list[str], list[str]]:
        """Each noun and each adjective in its prompt."""
        return in_prompt(self.prompts.noun, self.nouns), in_prompt(self.prompts.adjective, self.adjectives)


def in_prompt(prompt: str, words: Sequence[str]) -> list[str]:
    """Each word in the place of the prompt's `{}`.

    >>> in_prompt("The nice {}.", ["gong", "sea"])
    ['The nice gong.', 'The nice sea.']
    """
    return [prompt.format(word) for word in words]


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


def _short(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.80}"
