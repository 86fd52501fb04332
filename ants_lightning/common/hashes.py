"""SHA-256 of what has to be known again: bytes, plain JSON, files, tensors and images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

Buffer = bytes | memoryview


def digest(*parts: Buffer) -> str:
    """SHA-256 of the parts, one after another, in hexadecimal.

    >>> digest(b"a", b"bc") == digest(b"abc")
    True
    """
    return digest_of(parts)


def digest_of(parts: Iterable[Buffer]) -> str:
    """`digest` of parts that come one at a time."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def canonical(value: Any) -> bytes:
    """JSON of which equal values have equal bytes.

    >>> canonical({"b": 1, "a": [0.5]})
    b'{"a":[0.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, whatever its device, shape and layout."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return digest_of(iter(lambda: file.read(1 << 20), b""))


def pixel_hash(image: Image) -> str:
    """SHA-256 of the size and the RGB pixels of an image: the same for each file format without loss."""
    rgb = image.convert("RGB")
    return digest(f"{rgb.size}".encode(), rgb.tobytes())
