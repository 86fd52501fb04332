"""`Baselines`: the baselines of a detector, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.clip.towers import gives_patches

_OURS = ("mcm", "neglabel", "ens", "vsnl", "ants")


class Baselines(nn.ModuleDict):
    """Baselines by name, in the order of their columns.

    Args:
        baselines: none, one or several.
        visual: the image tower whose features they will score.

    Raises:
        ValueError: for what is no list of baselines, for a name that is taken, and for a baseline that needs
            patch features where the image tower gives none.
    """

    def __init__(self, baselines: Sequence[Baseline] | None, visual: nn.Module) -> None:
        super().__init__()
        given = [] if baselines is None else baselines
        if not isinstance(given, Sequence) or not all(isinstance(one, Baseline) for one in given):
            raise ValueError(f"baselines must be a list of baselines, like [MaxLogit()], got {given!r:.80}")
        for baseline in given:
            name = baseline.name
            if name in _OURS or name in self:
                raise ValueError(f"two scores with the name {name!r}")
            if baseline.needs_patches and not gives_patches(visual):
                raise ValueError(f"{name} needs patch features, and {type(visual).__name__} gives none")
            self[name] = baseline

    def _each(self) -> Iterator[Baseline]:
        return cast("Iterator[Baseline]", iter(self.values()))

    @property
    def needing_negatives(self) -> list[str]:
        """Names of those that cannot do without negative labels."""
        return [baseline.name for baseline in self._each() if baseline.needs_negatives]

    @property
    def needing_patches(self) -> list[str]:
        """Names of those that cannot do without patch features."""
        return [baseline.name for baseline in self._each() if baseline.needs_patches]

    @property
    def asking_similar(self) -> list[str]:
        """Names of those that want what the MLLM names as similar to each ID class."""
        return [baseline.name for baseline in self._each() if baseline.asks_similar]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of each, by name."""
        return {baseline.name: baseline.settings for baseline in self._each()}

    def prepare(self, inputs: DetectorInputs) -> None:
        """Begin a run."""
        for baseline in self._each():
            baseline.prepare(inputs)

    def reset(self) -> None:
        """Begin a stream: forget what was learnt."""
        for baseline in self._each():
            baseline.reset()

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        """OOD scores `(n,)` of a batch by name; in float32 also where the run computes in less."""
        with torch.autocast(seen.features.device.type, enabled=False):
            return {baseline.name: baseline(seen) for baseline in self._each()}

    def learn(self, images: Mapping[str, Tensor]) -> None:
        """Learn from the images since the last sync point, as `Baseline.learn` does."""
        for baseline in self._each():
            baseline.learn(images)

    def take_similar(self, similar_text: Tensor) -> None:
        """Give what the MLLM named, features `(L, d)`, to those that ask for it."""
        for baseline in self._each():
            if baseline.asks_similar:
                baseline.take_similar(similar_text)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What was learnt, by name; see `ANTS.state`."""
        return {baseline.name: baseline.state() for baseline in self._each()}

    def restore(self, state: Mapping[str, dict[str, Tensor]]) -> None:
        """Return to a `state`, after `prepare`."""
        for baseline in self._each():
            baseline.restore(state[baseline.name])
