"""The settings of `ANTS` that concern texts, in groups: prompts and negative labels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ants_lightning.common.groups import SettingsGroup
from ants_lightning.common.settings import check_shares
from ants_lightning.method.counts import check_keep


def check_prompt(name: str, prompt: Any) -> None:
    """Raise a ValueError, with this name, unless a prompt is a str with one `{}`."""
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise ValueError(f"{name} must hold one {{}}, got {prompt!r}")


@dataclass(frozen=True)
class Prompts(SettingsGroup):
    """The prompts that make texts for the text tower; `{}` stands for the name, the word or the sentence.

    Args:
        id: for names of ID classes, and for VSNL labels.
        noun: for negative nouns.
        adjective: for negative adjectives.
        sentence: for ENS sentences.
    """

    id: str = "The nice {}."
    noun: str = "The nice {}."
    adjective: str = "This is a {} photo."
    sentence: str = "{}"

    def check(self) -> None:
        """Raise a ValueError unless each prompt holds one `{}`."""
        for field in fields(self):
            check_prompt(f"prompts.{field.name}", getattr(self, field.name))


@dataclass(frozen=True)
class Negatives(SettingsGroup):
    """Where the negative labels N_nl come from.

    Args:
        nouns: candidates: a list, a text file with one a line, or `wordnet` for those of WordNet 3.0.
        adjectives: candidates, likewise.
        keep: what NegMining keeps of the nouns and of the adjectives: a share (float), or how many of each
            (int).
        percentile: NegMining sorts candidates by this percentile of their cosines with the ID classes; in [0,
            1].
        bank: folder with the `labels.txt` of an earlier run, which people may have edited: its texts become
            N_nl, and nothing is mined.
    """

    nouns: list[str] | str = ()  # type: ignore[assignment]
    adjectives: list[str] | str = ()  # type: ignore[assignment]
    keep: int | float = 0.15
    percentile: float = 0.95
    bank: str | None = None

    def check(self) -> None:
        """Raise a ValueError for a number out of range; the words are checked when a run is set up."""
        if not isinstance(self.bank, str | None):
            raise ValueError(f"negatives.bank must be a path, got {self.bank!r}")
        check_shares(**{"negatives.percentile": self.percentile})
        check_keep("negatives.keep", self.keep)
