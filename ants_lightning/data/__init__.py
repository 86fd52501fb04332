"""Streams of ID and OOD images, where they come from, and what batches may look like."""

from ants_lightning.data.class_names import read_class_names
from ants_lightning.data.folder import FolderDataModule
from ants_lightning.data.huggingface import HFDataset
from ants_lightning.data.image_lists import ImageList
from ants_lightning.data.openood import OpenOODDataModule
from ants_lightning.data.streams import MixedStream, OODDataModule

__all__ = [
    "FolderDataModule",
    "HFDataset",
    "ImageList",
    "MixedStream",
    "OODDataModule",
    "OpenOODDataModule",
    "read_class_names",
]
