"""Fingerprints of the two towers of CLIP: SHA-256 of all that their features depend on."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PROBE = "A photo of 2 Zebras, naïve & déjà-vu -- don't <end>!"


def image_tower_hash(clip: Any) -> str:
    """SHA-256 of the weights of the image tower, with their names, shapes and dtypes."""
    found = hashlib.sha256()
    for name, tensor in clip.visual.state_dict().items():
        found.update(_about(name, tensor))
        found.update(_bytes_of(tensor))
    return found.hexdigest()


def text_tower_hash(clip: Any, tokenizer: Callable[[list[str]], Tensor]) -> str:
    """SHA-256 of all that the features of a text depend on.

    That is everything but the submodule `visual`: modules, their settings, weights and dtypes; and the tokens
    of a sample. Settings are a module's numbers, strings and flags, such as heads, pooling and epsilon: two
    towers of equal weights may differ in these alone. QuickGELU and GELU differ in their class.
    """
    found = hashlib.sha256()
    for name, module in clip.named_modules():
        if not _is_visual(name):
            settings = sorted(_settings_of(module).items())
            found.update(f"{name} {type(module).__name__} {settings}\n".encode())
    for name, tensor in clip.state_dict().items():
        if not _is_visual(name):
            found.update(_about(name, tensor) + b"\n")
            found.update(_bytes_of(tensor))
    found.update(f"{tokenizer([_PROBE]).tolist()}".encode())
    return found.hexdigest()


def _is_visual(name: str) -> bool:
    return name.split(".")[0] == "visual"


def _settings_of(module: torch.nn.Module) -> dict[str, Any]:
    known = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str)}
    return {name: value for name, value in known.items() if not name.startswith("_") and name != "training"}


def _about(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
