"""Labelled ID images to set a threshold by (`Decision`)."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ants_lightning.data.reading import collate, lost_item, path_of, read_item


class LabelledImages(Dataset):
    """`image`, `label` and `index` of the images of a data set, or `lost` for `collate`.

    Args:
        dataset: map-style data set of `(PIL image, label)`.
        transform: from a PIL image to the tensor that the model takes.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[Any], Any]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image."""
        image, label, why = read_item(self.dataset, index, self.transform)
        if why:
            return lost_item(index, int(label), path_of(self.dataset, index), why)
        return {"image": image, "label": int(label), "index": index}


def calibration_loader(dataset: Dataset, transform: Callable[[Any], Any], batch_size: int, num_workers: int) -> DataLoader:
    """Batches of `LabelledImages`, in order."""
    return DataLoader(LabelledImages(dataset, transform), batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
