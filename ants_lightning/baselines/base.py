"""`Baseline`: a column of the table beside the scores of ANTS, computed in the same pass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ants_lightning.clip.settings import Negatives
from ants_lightning.clip.vocabulary import Vocabulary
from ants_lightning.common.exact import ExactBuffers
from ants_lightning.common.settings import plain


@dataclass(frozen=True)
class DetectorInputs:
    """What a score may take from the detector when a run starts.

    Features are L2-normalised, float32, on the detector's device.
    """

    id_text: Tensor  # t, (C, d)
    negative_text: Tensor  # N_nl, (M, d), as mined; M = 0 without negative labels
    vocabulary: Vocabulary  # candidates for negative labels, without ID class names
    mining: Negatives  # how N_nl was mined from the candidates
    temperature: float  # τ
    num_groups: int  # G
    image_size: tuple[int, int]  # height and width that the image tower takes
    encode_text: Callable[[Sequence[str]], Tensor]  # from n texts to (n, d)
    encode_image: Callable[[Tensor], Tensor]  # from preprocessed images (n, 3, h, w) to (n, d)


@dataclass(frozen=True)
class Seen:
    """A batch as CLIP and the spaces see it; all float32, on the model's device."""

    features: Tensor  # v, (n, d), L2-normalised
    id_cosine: Tensor  # with the ID texts, (n, C)
    negative_cosine: Tensor  # with N_nl in the order of its groups, (n, M); M = 0 without negative labels
    patches: Tensor | None = None  # patch features, (n, p, d), L2-normalised; None: the tower gives none


class Baseline(ExactBuffers):
    """An OOD score of another paper: `(n,)`, larger = more OOD, of any range.

    Tensors are non-persistent buffers, replaced and never edited in place. Under `NegativeMemory` a baseline
    learns from the stream at sync points only, from the same images on every rank, so that the scores do not
    depend on the number of GPUs.
    """

    name = ""  # of the column, and the key in results.json
    needs_negatives = False  # whether it cannot do without N_nl
    needs_patches = False  # whether it cannot do without patch features
    asks_similar = False  # whether it wants the MLLM's names similar to each ID class (`take_similar`)
    learned: tuple[str, ...] = ()  # names of the tensors that `learn` and `take_similar` change

    settings: dict[str, Any]  # the arguments it was made with, and the defaults of the others

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the constructor of a subclass keep its arguments in `settings`."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _keeps_settings(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        if "settings" not in vars(self):
            self.settings = {}

    def prepare(self, inputs: DetectorInputs) -> None:
        """Begin a run: take texts and settings, and do what `reset` does."""

    def reset(self) -> None:
        """Begin a stream: forget what was learnt."""

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` of a batch."""
        raise NotImplementedError

    def learn(self, images: Mapping[str, Tensor]) -> None:
        """Learn from the images since the last sync point, in stream order.

        Args:
            images: columns with one row an image: `features` `(n, d)`, `id_score` `(n,)`, `prediction`
                `(n,)`.
        """

    def take_similar(self, similar_text: Tensor) -> None:
        """Take what the MLLM named as similar to any ID class, as soon as it has.

        Args:
            similar_text: features of the names, in the prompt of the ID classes, `(L, d)`. No name is an ID
                class or another spelling of another one.
        """

    def state(self) -> dict[str, Tensor]:
        """What was learnt; see `ANTS.state`."""
        return {name: getattr(self, name) for name in self.learned}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Return to a `state`, after `prepare`."""
        for name in self.learned:
            setattr(self, name, state[name])

    def hold(self, *names: str) -> None:
        """Register empty non-persistent buffers under these names; real tensors replace them later."""
        for name in names:
            self.register_buffer(name, torch.empty(0), persistent=False)


def _keeps_settings(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps its arguments, as plain Python, in `settings` before it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keep(self: Baseline, *args: Any, **kwargs: Any) -> None:
        args = tuple(map(plain, args))
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        known = {name: plain(value) for name, value in list(given.arguments.items())[1:]}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                known |= known.pop(name)
        # In the constructor of a subclass that calls this one, its own arguments are kept already.
        if "settings" not in vars(self):
            self.settings = known
        init(self, *args, **kwargs)

    return keep
