"""The settings of a detector: its towers, its texts and its spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.clip.vocabulary import checked_class_names
from ants_lightning.common.groups import SettingsGroup
from ants_lightning.common.settings import check_counts, check_positive


@dataclass(frozen=True)
class DetectorSettings(SettingsGroup):
    """The settings of `ANTS`, where they are documented. They are checked before anything is loaded."""

    model: str
    pretrained: str | None
    class_names: list[str] | str | None
    prompts: Prompts
    negatives: Negatives
    temperature: float
    mcm_temperature: float
    num_groups: int
    vsnl_groups: int
    text_batch_size: int
    text_cache: str | None
    spaces: str | None
    threshold: Any

    def check(self) -> None:
        """Raise a ValueError that names the first wrong setting, and its value."""
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a name or path, got {self.model!r}")
        for name in ("pretrained", "text_cache", "spaces"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a name or path, got {getattr(self, name)!r}")
        check_positive(temperature=self.temperature, mcm_temperature=self.mcm_temperature)
        check_counts(
            num_groups=self.num_groups, vsnl_groups=self.vsnl_groups, text_batch_size=self.text_batch_size
        )
        if self.spaces and self.negatives.bank:
            both = f"{self.spaces!r} and {self.negatives.bank!r}"
            raise ValueError(f"spaces hold a label bank of their own: got both {both}")
        if self.class_names is not None:
            checked_class_names(self.class_names)
