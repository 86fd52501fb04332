"""What an image tower cannot take, told in words that point to `model.preprocess`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOOKED_AT = 8  # images of a batch
_BRIGHTEST = 30  # no usual normalisation takes pixels of 0…1 beyond 3


def check_pixels(images: Tensor, visual: Any) -> None:
    """Refuse images `(n, c, h, w)` that are surely not preprocessed for this image tower.

    Raises:
        ValueError: for integers, other than 3 channels, values that are plainly 0…255, and another size than
            the only one that the tower takes; it says how the images differ.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    size = _size_of(visual)
    if not images.is_floating_point():
        _refuse(f"are {images.dtype}, not normalised floats", size)
    if images.shape[1] != 3:
        last = " (channels last, NHWC)" if images.shape[-1] == 3 else ""
        _refuse(f"have the shape {tuple(images.shape)}{last}, not (n, 3, h, w)", size)
    if size and isinstance(visual, VisionTransformer | ModifiedResNet) and tuple(images.shape[-2:]) != size:
        _refuse(f"are {images.shape[-2]} × {images.shape[-1]} pixels", size)
    few = images[:_LOOKED_AT].detach().float().nan_to_num(0, 0, 0)
    if len(few) and bool((few.amin() >= 0) & ((few.amax((1, 2, 3)) > _BRIGHTEST).float().mean() > 0.5)):
        _refuse(f"have values of 0…{few.amax():.0f}, as pixels do before they are normalised", size)


def in_words(tower: Callable[[Tensor], Any], images: Tensor, visual: Any) -> Any:
    """What the tower gives; where it fails at images of another size than its own, a ValueError says so."""
    try:
        return tower(images)
    except (RuntimeError, AssertionError) as error:
        size = _size_of(visual)
        if isinstance(error, torch.OutOfMemoryError) or size in (None, tuple(images.shape[-2:])):
            raise
        here = f"{images.shape[-2]} × {images.shape[-1]} pixels"
        raise _error(f"are {here}, at which the image tower fails ({error})", size) from error


def _size_of(visual: Any) -> tuple[int, int] | None:
    size = getattr(visual, "image_size", None)
    if isinstance(size, int):
        return size, size
    return tuple(size) if isinstance(size, tuple | list) and len(size) == 2 else None


def _refuse(what: str, size: tuple[int, int] | None) -> None:
    raise _error(what, size)


def _error(what: str, size: tuple[int, int] | None) -> ValueError:
    wanted = f"(n, 3, {size[0]}, {size[1]})" if size else "(n, 3, h, w)"
    return ValueError(
        f"the images of a batch {what}. The image tower takes floats {wanted} as `model.preprocess` makes "
        "them of a PIL image: have your data set do that (`transform=model.preprocess`)"
    )
