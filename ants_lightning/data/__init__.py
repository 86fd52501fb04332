"""Streams of ID and OOD images, and what batches may look like."""

from ants_lightning.data.streams import MixedStream, OODDataModule

__all__ = ["MixedStream", "OODDataModule"]
