"""The nouns and adjectives of WordNet 3.0 (Fellbaum, "WordNet", 1998), candidates for negative labels.

The candidates are those of NegLabel (Jiang et al., ICLR 2024): the first, most usual word of each synset,
without the nouns of the lexicographer files *animal* and *food*, which most classes of ImageNet belong to.
That leaves 70,794, of which NegMining keeps 15 %. CSP (Chen et al., NeurIPS 2024) leaves out other files:
`nouns(("person", "quantity", "group"))` and `adjectives(("pert",))`.

It differs from the authors' code in this: words come in the order of WordNet, not of a set or a folder; they
keep their capitals, and repeated ones are dropped ignoring case; a word that is both a noun and an adjective
is always a noun.
"""

import lzma
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ants_lightning.common.settings import plain

ASSETS = Path(__file__).parents[1] / "assets"


def synsets(part: str) -> list[list[str]]:
    """Synsets of the `nouns` or `adjectives`, each a list: its lexicographer file, then its synonyms.

    A "~" stands before a synonym whose first meaning is another synset.
    """
    text = lzma.decompress((ASSETS / f"wordnet_{part}.txt.xz").read_bytes()).decode()
    return [line.split("\t") for line in text.split("\n")]


def nouns(without: Sequence[str] = ("animal", "food")) -> list[str]:
    """Nouns without those of some lexicographer files, lexnames(5WN); ValueError for an unknown file.

    >>> len(nouns()), len(nouns(())), nouns()[:3]
    (58514, 67186, ['entity', 'physical entity', 'abstraction'])
    """
    return list(_first_words("nouns", _files(without)))


def adjectives(without: Sequence[str] = ()) -> list[str]:
    """Adjectives that are not among `nouns()`, without those of some lexicographer files.

    The files are `all`, `pert` (pertaining to a noun) and `ppl` (participles); ValueError for another one.

    >>> len(adjectives()), len(adjectives(("pert",))), adjectives()[:3]
    (12280, 9883, ['able', 'unable', 'abaxial'])
    """
    return list(_adjectives(_files(without)))


def _files(without: Sequence[str]) -> tuple[str, ...]:
    """Names of files as a tuple, which a cache can be looked up by; one name may come as a str."""
    without = plain(without)
    return (without,) if isinstance(without, str) else tuple(without)


@lru_cache
def _adjectives(without: tuple[str, ...]) -> list[str]:
    known = {noun.lower() for noun in nouns()}
    return [word for word in _first_words("adjectives", without) if word.lower() not in known]


@lru_cache
def _first_words(part: str, without: tuple[str, ...]) -> list[str]:
    found = synsets(part)
    for file in without:
        if all(file != name for name, *_ in found):
            raise ValueError(f"no file of WordNet's {part} is called {file!r}")
    words: dict[str, str] = {}
    for file, word, *_ in found:
        if file not in without:
            word = word.removeprefix("~")
            words.setdefault(word.lower(), word)
    return list(words.values())
