"""`Baseline`: a column of the table beside the scores of ANTS, computed in the same pass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ants_lightning.common.exact import ExactBuffers
from ants_lightning.common.settings import plain

if TYPE_CHECKING:
    from ants_lightning.adapt.bank import Rows
    from ants_lightning.ants import ANTS


@dataclass(frozen=True)
class Seen:
    """A batch as CLIP and the spaces see it; all float32, on the model's device."""

    features: Tensor  # v, (n, d), L2-normalised
    id_cosine: Tensor  # with the ID texts, (n, C)
    negative_cosine: Tensor  # with N_nl in the order of its groups, (n, M); M = 0 without negative labels
    patches: Tensor | None = None  # patch features in the text space, (n, p, d), L2-normalised; None: the tower gives none


class Baseline(ExactBuffers):
    """An OOD score of another paper. Tensors are non-persistent buffers, replaced and never edited in place.

    A score is `(n,)`, larger = more OOD, of any range. Under `NegativeMemory` a baseline that learns from the stream does so at
    sync points only, from rows that are the same on every rank: so any number of GPUs gives the same scores.
    """

    name = ""  # of the column, and of the key in results.json
    needs_negatives = False  # N_nl
    needs_patches = False
    asks_similar = False  # names similar to each ID class, of the MLLM
    learned: tuple[str, ...] = ()  # the tensors that `learn` and `take_similar` change

    settings: dict[str, Any]  # the arguments it was made with, defaults too

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the arguments of each baseline, as plain Python, before its constructor runs."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _keeps_settings(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        vars(self).setdefault("settings", {})

    def prepare(self, model: ANTS) -> None:
        """At the start of a run: take texts and settings from the model, with ID texts and N_nl ready; ends as `reset` does."""

    def reset(self) -> None:
        """A stream begins: forget what the one before taught."""

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` of a batch."""
        raise NotImplementedError

    def learn(self, rows: Rows) -> None:
        """Take the images since the last sync point, in stream order: `features` (n, d), `id_score` (n,), `prediction` (n,)."""

    def take_similar(self, model: ANTS, names: Mapping[str, Sequence[str]]) -> None:
        """Take similar names by ID class name, once the MLLM gave them; classes may be missing."""

    def state(self) -> dict[str, Tensor]:
        """What the stream taught; see `ANTS.state`."""
        return {name: getattr(self, name) for name in self.learned}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Become what `state` told, after `prepare`."""
        for name in self.learned:
            setattr(self, name, state[name])

    def hold(self, *names: str) -> None:
        """Register empty non-persistent buffers, to be replaced."""
        for name in names:
            self.register_buffer(name, torch.empty(0), persistent=False)


def _keeps_settings(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keep(self: Baseline, *args: Any, **kwargs: Any) -> None:
        args, kwargs = tuple(map(plain, args)), {name: plain(value) for name, value in kwargs.items()}
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        known = {name: plain(value) for name, value in list(given.arguments.items())[1:]}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                known |= known.pop(name)
        vars(self).setdefault("settings", known)  # of a subclass: those of its own constructor, which calls this one
        init(self, *args, **kwargs)

    return keep


def confident(id_scores: Tensor, threshold: float, gap: float) -> tuple[Tensor, Tensor]:
    """Which images are surely ID, `S ≥ γ + g(1-γ)`, and which surely OOD, `S < γ - gγ` (AdaNeg and TANL).

    Args:
        id_scores: S, `(n,)` in [0, 1], larger = more ID.
        threshold: γ in [0, 1].
        gap: g in [0, 1].

    Returns:
        Two masks `(n,)`; both False for those between.

    Example:
        >>> [mask.tolist() for mask in confident(torch.tensor([0.2, 0.25, 0.5, 0.75]), threshold=0.5, gap=0.5)]
        [[False, False, False, True], [True, False, False, False]]
    """
    return id_scores >= threshold + gap * (1 - threshold), id_scores < threshold - gap * threshold
