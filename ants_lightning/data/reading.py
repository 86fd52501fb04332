"""Reading images: one way to RGB, and what becomes of an image that cannot be had."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from ants_lightning.data.columns import label_of

logger = logging.getLogger(__name__)

# Never the fault of a file; decoders throw nearly everything else at a broken one
BUGS = (NameError, ImportError)
LONGEST = 32  # times its width, or its height, that an image is long


class ImageError(OSError):
    """Names the file of an image that cannot be read; its cause tells why."""


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a PIL image of any mode.

    What Pillow cannot decode or convert raises; so do NaN and Inf pixels (ValueError).

    As in torchvision and OpenOOD alpha is dropped (the colours stored beneath it are seen), of an animation
    it is the first frame, and EXIF orientation is not applied. Unlike there grey of more than 8 bits is
    scaled, not clipped to white: 16 bits from 0…65535; 32-bit numbers from the smallest of 0…1 (float only),
    0…255 and 0…65535 that holds all pixels, else from their minimum…maximum. What goes with the pixels is
    left behind, so that nobody turns the picture by its EXIF later. Of an image more than `LONGEST` times as
    long as wide it is the middle: scaled to the size of a model, a line of 1 × 30,000 takes gigabytes.
    """
    image = _middle(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, but Pillow warns of the other way
    image = image.convert("RGB")
    image.info = {}
    return image


def _middle(image: Image.Image) -> Image.Image:
    """The image, or its middle where it is too long; as much is cut off at one end as at the other."""
    width, height = image.size
    most = LONGEST * min(width, height)
    cut_x, cut_y = (max(0, (side - most) // 2) for side in (width, height))
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y)) if cut_x or cut_y else image


def _eight_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.float32)
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite(low + high):
        raise ValueError("NaN or Inf pixels")
    tops = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    low, high = next(((0.0, float(top)) for top in tops if low >= 0 and high <= top), (low, high))
    return Image.fromarray(((grey - low) * (255 / (high - low or 1))).round().astype(np.uint8))


def open_image(path: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """The image in a file, as `to_rgb`; an `ImageError` where it cannot be read.

    Also a `loader` for torchvision's `ImageFolder`, whose own clips 16-bit images to white.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except BUGS:
        raise
    except Exception as error:
        name = os.fspath(path) if isinstance(path, str | os.PathLike) else "in memory"
        raise ImageError(f"cannot read the image {name!r}: {error}") from error


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a function gives, and ""; or None, and why it fails.

    Exceptions that are `BUGS` are raised.
    """
    try:
        return function(*arguments), ""
    except BUGS:
        raise
    except Exception as error:  # decoders do not keep to a list
        cause = error.__cause__ if isinstance(error, ImageError) else error
        return None, " ".join(f"{type(cause).__name__}: {cause}".split())[:300]


def read_item(dataset: Any, place: int, transform: Callable[[Any], Any]) -> tuple[Any, Any, str]:
    """Transformed image and label of a place in a data set of `(PIL image, label)`, and "".

    For an image that cannot be had: None, its label, and why.

    The label of an image that cannot be had is `label_of`. An item that is no such pair is a bug: a
    TypeError.
    """
    item, why = attempt(dataset.__getitem__, place)
    if why:
        return None, label_of(dataset, place), why
    if not isinstance(item, Sequence) or len(item) < 2 or not isinstance(item[0], Image.Image | None):
        kinds = [type(part).__name__ for part in item] if isinstance(item, Sequence) else type(item).__name__
        raise TypeError(
            f"a data set must give (PIL image, label), with no transform of its own: got {kinds} at {place}"
        )
    image, why = attempt(lambda: transform(to_rgb(item[0])))
    return image, item[1], why


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of items, without those that are `{"lost": …}`.

    These become the list `lost`, a key that is there only where something is lost.

    With no item left `image` is (0, 3, 1, 1), and `label` and `index` are (0,).
    """
    lost = [item["lost"] for item in items if "lost" in item]
    good = [item for item in items if "lost" not in item]
    none = torch.empty(0, dtype=torch.long)
    batch = (
        default_collate(good)
        if good
        else {"image": torch.empty(0, 3, 1, 1), "label": none, "index": none, "path": []}
    )
    return {**batch, "lost": lost} if lost else batch


def lost_item(index: int, label: int, path: str, why: str) -> dict[str, Any]:
    """What `collate` takes for an image that cannot be had: place in the stream, label, path, and reason."""
    return {"lost": {"index": index, "label": label, "path": path, "why": why}}


def log_lost(lost: Sequence[Mapping[str, Any]], told: dict[str, str]) -> None:
    """Log the first of each kind of loss; `told` has the reasons by kind, and takes the new ones."""
    for one in lost:
        kind = one["why"].split(":")[0]
        if kind not in told:
            told[kind] = one["why"]
            logger.warning(
                "image %d is lost (others for the like are only counted): %s %s",
                one["index"],
                one["path"],
                one["why"],
            )
