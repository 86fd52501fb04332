"""Fingerprints of the two towers of CLIP: SHA-256 of all that their features depend on."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ants_lightning.common.hashes import Buffer, bytes_of, digest_of

_PROBE = "A photo of 2 Zebras, naïve & déjà-vu -- don't <end>!"


def image_tower_hash(clip: Any) -> str:
    """SHA-256 of the weights of the image tower, with their names, shapes and dtypes."""
    weights = clip.visual.state_dict().items()
    return digest_of(part for name, tensor in weights for part in (_about(name, tensor), bytes_of(tensor)))


def text_tower_hash(clip: Any, tokenizer: Callable[[list[str]], Tensor]) -> str:
    """SHA-256 of all that the features of a text depend on.

    That is everything but the submodule `visual`: modules, their settings, weights and dtypes; and the tokens
    of a sample. Settings are a module's numbers, strings and flags, such as heads, pooling and epsilon: two
    towers of equal weights may differ in these alone. QuickGELU and GELU differ in their class.
    """
    return digest_of(_text_tower(clip, tokenizer))


def _text_tower(clip: Any, tokenizer: Callable[[list[str]], Tensor]) -> Iterator[Buffer]:
    for name, module in clip.named_modules():
        if not _is_visual(name):
            settings = sorted(_settings_of(module).items())
            yield f"{name} {type(module).__name__} {settings}\n".encode()
    for name, tensor in clip.state_dict().items():
        if not _is_visual(name):
            yield _about(name, tensor) + b"\n"
            yield bytes_of(tensor)
    yield f"{tokenizer([_PROBE]).tolist()}".encode()


def _is_visual(name: str) -> bool:
    return name.split(".")[0] == "visual"


def _settings_of(module: torch.nn.Module) -> dict[str, Any]:
    known = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str)}
    return {name: value for name, value in known.items() if not name.startswith("_") and name != "training"}


def _about(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
