"""Label hygiene: what an MLLM's answer must not be, since a false negative label costs ID accuracy."""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.vocabulary import in_prompt
from ants_lightning.clip.wordnet import synsets
from ants_lightning.spaces.text_space import TextSpace

logger = logging.getLogger(__name__)


def fold(text: str) -> str:
    """A text in lower-case letters and digits, without an article: spellings of one name are equal.

    >>> fold("A T-Shirt") == fold("t shirt") == fold("tshirts"[:-1])
    True
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return "".join(character for word in words for character in word if character.isalnum())


@lru_cache(1)
def synonyms() -> dict[str, list[str]]:
    """WordNet 3.0's synonyms of nouns in their most frequent sense, by folded noun.

    Source: Fellbaum, "WordNet", 1998.
    """
    found: dict[str, list[str]] = {}
    for _, *nouns in synsets("nouns"):
        meant = [noun for noun in nouns if not noun.startswith("~")]
        for noun in meant:
            found.setdefault(fold(noun), []).extend(
                [*meant, *(noun[1:] for noun in nouns if noun.startswith("~"))]
            )
    return found


def forms(name: str) -> set[str]:
    """A class name and its WordNet synonyms, in singular and plural, folded.

    >>> sorted(forms("T-shirt"))
    ['jersey', 'jerseys', 'teeshirt', 'teeshirts', 'tshirt', 'tshirts']
    """
    import inflect

    words = inflect.engine()
    singular = _inflected(words.singular_noun, name)
    nouns = {name, singular, *synonyms().get(fold(name), []), *synonyms().get(fold(singular), [])}
    return {fold(form) for noun in nouns for form in (noun, _inflected(words.plural_noun, noun))} - {""}


def _inflected(inflect_noun: Callable[[Any], str | Literal[False]], noun: str) -> str:
    """Another form of a noun, or the noun itself.

    For what is no noun ("-of-", " ") inflect raises exceptions of many kinds.
    """
    try:
        return inflect_noun(noun) or noun
    except Exception as error:
        logger.debug("no other form of %r: %r", noun, error)
        return noun


class Hygiene:
    """Drops labels and sentences that are an ID class name, and those too close to one.

    Args:
        class_names: ID class names.
        id_text: their text features `(C, d)`, L2-normalised.
        max_id_similarity: the largest cosine with an ID class that a text may have; None: any.
        names: False: names of ID classes are not looked at.
    """

    def __init__(
        self, class_names: Sequence[str], id_text: Tensor, max_id_similarity: float | None, names: bool = True
    ) -> None:
        self.names = set[str]().union(*map(forms, class_names)) if names else set[str]()
        self.id_text, self.max_id_similarity = id_text, max_id_similarity

    def is_id_name(self, text: str) -> bool:
        """Whether a text is the name of an ID class: case, plural, hyphens and WordNet synonyms aside."""
        return fold(text) in self.names

    def distinct(self, labels: Iterable[str]) -> list[str]:
        """The first spelling of each label, without names of ID classes and what holds no letter or digit."""
        found = dict[str, str]()
        for label in labels:
            if fold(label) and not self.is_id_name(label):
                found.setdefault(fold(label), label)
        return list(found.values())

    def far_enough(self, features: Tensor) -> Tensor:
        """Which of the text features `(n, d)` are not too close to an ID class, `(n,)`."""
        if self.max_id_similarity is None:
            return torch.ones(len(features), dtype=torch.bool, device=features.device)
        return (features @ self.id_text.T).amax(1) <= self.max_id_similarity

    def push(
        self, space: TextSpace, answers: list[str], prompt: str, encoder: TextEncoder
    ) -> list[tuple[str, str]]:
        """Push answers to a space as texts in a prompt; another spelling of a text counts as that text.

        Returns:
            The answers that were dropped, and why.
        """
        dropped = [(answer, "are an ID class name") for answer in answers if self.is_id_name(answer)]
        good = [answer for answer in answers if not self.is_id_name(answer)]
        if not good:
            return dropped
        spelling = {fold(text): text for text in space.labels}
        texts = [spelling.setdefault(fold(text), text) for text in in_prompt(prompt, good)]
        features = encoder(texts)  # (n, d)
        far = self.far_enough(features)
        kept = far.tolist()
        space.push([text for text, keep in zip(texts, kept, strict=True) if keep], features[far])
        close = [answer for answer, keep in zip(good, kept, strict=True) if not keep]
        return [*dropped, *((answer, "are close to an ID class") for answer in close)]
