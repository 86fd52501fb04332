"""Labelled ID images to set a threshold by (`Decision`)."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ants_lightning.data.columns import id_label, path_of
from ants_lightning.data.reading import collate, lost_item, read_item


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


def calibration_loader(dataset: Dataset, transform: Callable[[Any], Any], batch_size: int, num_workers: int) -> DataLoader:
    """Batches of `LabelledImages`, in order."""
    return DataLoader(LabelledImages(dataset, transform), batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
