"""`RawImages`: images of a stream for the MLLM, from the data set where it can, else from the batches."""

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image


class RawImages:
    """PIL images by their place in the stream; KeyError where one was not kept, OSError where it cannot be read.

    A data set with `raw_image(index)` gives them back at full resolution. For any other the wanted images of each batch
    are de-normalised (by the `Normalize` of `preprocess`) and kept, the newest `capacity` of them.
    """

    def __init__(self, dataset: Any, preprocess: Any, capacity: int) -> None:
        self._dataset = dataset if hasattr(dataset, "raw_image") else None
        norm = next(t for t in preprocess.transforms if hasattr(t, "mean") and hasattr(t, "std"))
        self._mean, self._std = (torch.tensor(x).view(-1, 1, 1) for x in (norm.mean, norm.std))
        self._capacity = capacity
        self._kept: dict[int, Tensor] = {}

    def keep(self, images: Tensor, index: Tensor, wanted: Tensor) -> None:
        """Keep the `wanted` (n,) of a batch of normalised images (n, 3, h, w), where the data set gives none back."""
        if self._dataset is not None:
            return
        pixels = images[wanted].float().cpu() * self._std + self._mean
        self._kept.update(zip(index[wanted].tolist(), (pixels.clamp(0, 1) * 255).round().to(torch.uint8), strict=True))
        for old in list(self._kept)[: max(0, len(self._kept) - self._capacity)]:
            del self._kept[old]

    def __getitem__(self, index: int) -> Image:
        if self._dataset is not None:
            return self._dataset.raw_image(index)
        return to_pil_image(self._kept[index])
