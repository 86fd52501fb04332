"""Labelled ID images to set a threshold by (`Decision`)."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ants_lightning.data.batches import unpack_batch
from ants_lightning.data.columns import id_label, path_of
from ants_lightning.data.reading import collate, lost_item, read_item

logger = logging.getLogger(__name__)


class LabelledImages(Dataset):
    """`image`, `label` and `index` of the images of a data set, or `lost` for `collate`.

    Args:
        dataset: map-style data set of `(PIL image, label)`.
        transform: from a PIL image to the tensor that the model takes.
        labelled: False: its labels are not looked at, every one is -1.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[Any], Any], labelled: bool = True) -> None:
        self.dataset, self.transform, self.labelled = dataset, transform, labelled

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image; a ValueError where its label is none."""
        image, label, why = read_item(self.dataset, index, self.transform)
        label = id_label(label, index, self.dataset, negative=True) if self.labelled else -1
        if why:
            return lost_item(index, label, path_of(self.dataset, index), why)
        return {"image": image, "label": label, "index": index}


def calibration_loader(
    dataset: Dataset, transform: Callable[[Any], Any], batch_size: int, num_workers: int
) -> DataLoader:
    """Batches of `LabelledImages`, in order."""
    return DataLoader(
        LabelledImages(dataset, transform), batch_size=batch_size, num_workers=num_workers, collate_fn=collate
    )


@torch.no_grad()
def calibration_features(
    trainer: L.Trainer, datamodule: L.LightningDataModule | None, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Features `(n, d)` of the labelled ID images of `val_dataloader()`, n > 0.

    Images with a negative label are left out.

    Args:
        trainer: of the run; every rank reads all images.
        datamodule: ValueError where it has no `val_dataloader()`, no labels, or no ID image.
        encode: from preprocessed images `(n, 3, h, w)` to features `(n, d)`.
    """
    parts, negative, lost = list[Tensor](), 0, 0
    for batch in _batches(trainer, datamodule):
        x, label, _ = unpack_batch(batch)
        if label is None:
            raise ValueError("threshold: id_recall needs labels in the batches of val_dataloader()")
        lost += len(batch.get("lost", ())) if isinstance(batch, Mapping) else 0
        negative += int((label < 0).sum())
        x = x[label >= 0]
        if len(x):
            features = x.float() if x.ndim == 2 else encode(x)
            good = features.isfinite().all(1)
            lost += len(good) - int(good.sum())
            parts.append(features[good])
    n = sum(map(len, parts))
    logger.info(
        "id_recall: %d labelled ID images (left out: %d with a negative label, %d lost)", n, negative, lost
    )
    if not n:
        raise ValueError(
            f"threshold: id_recall: no ID image in val_dataloader() ({negative} negative labels, {lost} lost)"
        )
    return torch.cat(parts)


def _batches(trainer: L.Trainer, datamodule: L.LightningDataModule | None) -> Iterator[Any]:
    """All batches of `val_dataloader()` on every rank, on the device and in the precision of the run."""
    if datamodule is None or not is_overridden("val_dataloader", datamodule, L.LightningDataModule):
        what = "there is no data module" if datamodule is None else f"{type(datamodule).__name__} has none"
        needed = "a data module with a val_dataloader() of labelled ID images"
        raise ValueError(f"threshold: id_recall needs {needed}; {what}")
    datamodule.setup("validate")
    loaders = CombinedLoader(datamodule.val_dataloader() or [], mode="sequential")
    for loader in loaders.flattened:
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            wrong = "it has a DistributedSampler"
            raise ValueError(f"threshold: id_recall needs all of val_dataloader() on every rank, {wrong}")
    with trainer.precision_plugin.forward_context():
        for batch, _, place in loaders:
            batch = trainer.precision_plugin.convert_input(batch)
            yield trainer.strategy.batch_to_device(batch, trainer.strategy.root_device, place)
