"""`FolderDataModule`: the unlabelled images of a folder, for `trainer.predict`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset

from ants_lightning.data.class_names import read_class_names
from ants_lightning.data.image_files import find_images
from ants_lightning.data.reading import attempt, collate, lost_item, open_image
from ants_lightning.data.stream_loader import RankShare


class FolderImages(Dataset):
    """Images by path, without labels.

    Args:
        paths: of the images.
        transform: from a PIL image to the tensor that the model takes.
    """

    def __init__(self, paths: Sequence[str], transform: Callable[[Any], Any]) -> None:
        self.paths, self.transform = list(paths), transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`, `index` and `path`; of an image that cannot be had `lost` alone, for `collate`."""
        path = self.paths[index]
        image, why = attempt(lambda: self.transform(open_image(path)))
        return lost_item(index, -1, path, why) if why else {"image": image, "index": index, "path": path}

    def raw_image(self, index: int) -> Image:
        """The untransformed RGB image, for the MLLM."""
        return open_image(self.paths[index])


class FolderDataModule(L.LightningDataModule):
    """All images of a folder and its subfolders, in the order of their paths, as one stream.

    Which files are taken: `image_files.find_images`. A folder that does not exist or holds no image is an
    error when the run starts.

    Args:
        folder: of the images.
        class_names: ID class names, or a text file with one a line; None: those of `ANTS`.
        batch_size: images per batch and device.
        num_workers: of the loader.
        transform: PIL image → tensor; None: the model's own preprocessing.
    """

    def __init__(
        self,
        folder: str,
        class_names: list[str] | str | None = None,
        batch_size: int = 256,
        num_workers: int = 4,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.class_names = (
            read_class_names(class_names) if isinstance(class_names, str | os.PathLike) else class_names
        )
        self.batch_size, self.num_workers, self.transform = batch_size, num_workers, transform

    def setup(self, stage: str) -> None:
        """Find the images."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no such folder: {str(self.folder)!r}")
        paths = find_images(self.folder)
        if not paths:
            raise FileNotFoundError(f"no images in the folder {str(self.folder)!r} and its subfolders")
        # With a transform of its own it needs no trainer
        model: Any = self.trainer and self.trainer.lightning_module
        self.images = FolderImages(paths, self.transform or model.preprocess)

    def predict_dataloader(self) -> dict[str, DataLoader]:
        """One loader; over several ranks without padding."""
        world, rank = self.trainer.world_size, self.trainer.global_rank  # type: ignore[union-attr]
        sampler = RankShare(range(len(self.images)), world, rank) if world > 1 else None
        loader = DataLoader(
            self.images,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
        )
        return {self.folder.resolve().name or "images": loader}
