"""`HFDataset`: a data set of the Hugging Face `datasets` library as `(PIL image, label)`."""

from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch.utils.data import Dataset

from ants_lightning.data.reading import open_image, to_rgb


class HFDataset(Dataset):
    """Images of a Hugging Face data set, as `(RGB PIL image, label)`; needs the package `datasets`.

    `classes` are the names of the label column where it has them (`ClassLabel`), else None. A split or column
    that is not there is a ValueError that names those that are. Images are decoded as files are: `datasets`
    would turn them by their EXIF orientation. Labels are given as they are in the column; a stream refuses
    those of an ID set that are no numbers.

    Args:
        path: a folder written by `save_to_disk`, a folder of images, or the name of a data set on the hub.
        split: which split; not looked at where the folder holds a single one without a name.
        image: the column of images.
        label: the column of whole-numbered labels; None: no labels, every label is -1 (for OOD sets).
        name: the configuration of a data set on the hub.
    """

    def __init__(
        self,
        path: str,
        split: str = "test",
        image: str = "image",
        label: str | None = "label",
        name: str | None = None,
    ) -> None:
        self.data = _load(path, split, name)
        for column in (image, label):
            if column is not None and column not in self.data.features:
                raise ValueError(f"{path!r} has no column {column!r}: {list(self.data.features)}")
        self.image, self.label = image, label
        if type(self.data.features[image]).__name__ == "Image":
            self.data = self.data.cast_column(image, type(self.data.features[image])(decode=False))
        kind: Any = self.data.features[label] if label is not None else None
        self.classes: list[str] | None = list(kind.names) if getattr(kind, "names", None) else None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data)

    @cached_property
    def labels(self) -> list[Any]:
        """All labels, with no image decoded."""
        return [-1] * len(self) if self.label is None else list(self.data[self.label])

    def __getitem__(self, index: int) -> tuple[Image | None, Any]:
        """Image, None where the row has none, and label."""
        row = self.data[index]
        return _decode(row[self.image]), -1 if self.label is None else row[self.label]


def _decode(cell: Any) -> Image | None:
    """The image of a cell: bytes, a path (also an address within an archive), or a decoded image."""
    if not isinstance(cell, dict):
        return cell if cell is None else to_rgb(cell)
    content, path = cell.get("bytes"), cell.get("path")
    if content is None and path and "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            content = file.read()
    return open_image(path or "" if content is None else BytesIO(content))


def _load(path: str, split: str, name: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ModuleNotFoundError("HFDataset needs the package 'datasets': pip install datasets") from error
    folder = Path(path).expanduser()
    if (folder / "state.json").is_file():
        return datasets.load_from_disk(str(folder))
    if (folder / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(str(folder))
    elif folder.is_dir():
        found = datasets.load_dataset("imagefolder", data_dir=str(folder))
    else:
        return datasets.load_dataset(path, name, split=split)
    if split not in found:
        raise ValueError(f"{path!r} has no split {split!r}: {list(found)}")
    return found[split]
