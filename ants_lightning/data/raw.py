"""`RawImages`: images of a stream for the MLLM, from the data set where it can, else from the batches."""

from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

_LEVEL = 1  # of compression: higher ones take up to 4 times as long for 4 % less


class RawImages:
    """PIL images by their place in the stream.

    A KeyError where one was not kept, an OSError where it cannot be read.

    A data set with `raw_image(index)` gives them back at full resolution. For any other the wanted images of
    each batch are de-normalised (by the `Normalize` of `preprocess`; a ValueError where it has none) and
    kept, without loss, as PNG `(bytes,)`, uint8: the newest `capacity` of them, until they are forgotten;
    with 0, for a run without MLLM, none.
    """

    def __init__(self, dataset: Any, preprocess: Any, capacity: int) -> None:
        self._dataset = dataset if hasattr(dataset, "raw_image") else None
        if self._dataset is None and capacity:
            norm = next(
                (
                    t
                    for t in getattr(preprocess, "transforms", ())
                    if hasattr(t, "mean") and hasattr(t, "std")
                ),
                None,
            )
            if norm is None:
                raise ValueError(
                    f"the MLLM's images cannot be had: {type(dataset).__name__} has no raw_image(index), "
                    f"and the preprocessing no Normalize to take back: {preprocess}"
                )
            self._mean, self._std = (torch.tensor(x).view(-1, 1, 1) for x in (norm.mean, norm.std))
        self._capacity = capacity
        self._kept: dict[int, Tensor] = {}

    def keep(self, images: Tensor, index: Tensor, wanted: Tensor) -> None:
        """Keep the `wanted` `(n,)` of normalised images `(n, 3, h, w)`, if the data set gives none back.

        Of features (n, d) in their place nothing can be kept.
        """
        if self._dataset is not None or images.ndim == 2 or not self._capacity:
            return
        from torchvision.io import encode_png

        pixels = images[wanted].float().cpu() * self._std + self._mean
        files = (encode_png(image, _LEVEL) for image in (pixels.clamp(0, 1) * 255).round().to(torch.uint8))
        self._kept.update(zip(index[wanted].tolist(), files, strict=True))
        self.forget(list(islice(self._kept, max(0, len(self._kept) - self._capacity))))

    def forget(self, index: Sequence[int]) -> None:
        """Keep these images no longer, since the MLLM has described them; places without one are ignored."""
        for place in index:
            self._kept.pop(place, None)

    def __getitem__(self, index: int) -> Image.Image:
        if self._dataset is not None:
            return self._dataset.raw_image(index)
        return Image.open(BytesIO(self._kept[index].numpy().tobytes())).convert("RGB")

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {"index": list(self._kept), "images": list(self._kept.values())}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told."""
        self._kept = dict(zip(state["index"], state["images"], strict=True))
