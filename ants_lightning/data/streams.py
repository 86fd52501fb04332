"""Mixed, seeded streams of an ID and an OOD set, and the data module that serves them."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset


class MixedStream(Dataset):
    """An ID set mixed with an OOD set, in a seeded order that belongs to the data set; refuses an empty set.

    Args:
        id_set: map-style data set of `(PIL image, label)`, label in 0…C-1.
        ood_set: the same; its labels are not looked at.
        transform: from a PIL image to the tensor that the model takes.
        seed: of the order.
    """

    def __init__(self, id_set: Dataset, ood_set: Dataset, transform: Callable[[Any], Any], seed: int = 0) -> None:
        self.sets, self.transform = (id_set, ood_set), transform
        self.n_id, n_ood = len(id_set), len(ood_set)  # type: ignore[arg-type]
        if not self.n_id or not n_ood:
            raise ValueError(f"a stream needs ID and OOD images, got {self.n_id} and {n_ood}")
        self.order = torch.randperm(self.n_id + n_ood, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.order)

    def _item(self, index: int) -> tuple[Any, int]:
        place = int(self.order[index])
        if place < self.n_id:
            return self.sets[0][place]
        return self.sets[1][place - self.n_id][0], -1

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`, `label` (-1 = OOD) and `index` of a place in the stream."""
        image, label = self._item(index)
        return {"image": self.transform(image), "label": int(label), "index": index}

    def raw_image(self, index: int) -> Any:
        """The untransformed PIL image at a place in the stream, for the MLLM."""
        return self._item(index)[0].convert("RGB")


class OODDataModule(L.LightningDataModule):
    """Test streams from map-style data sets: the ID set mixed with each OOD set; ValueError for none, or a name in both groups.

    Args:
        id_set: data set of `(PIL image, label)`.
        near: near-OOD sets by name.
        far: far-OOD sets by name.
        class_names: ID class names, in the order of the labels; None: `id_set.classes`.
        batch_size: images per batch and device.
        num_workers: of the loaders.
        seed: of the order of the streams.
        transform: PIL image → tensor; None: the model's own preprocessing.
    """

    def __init__(
        self, id_set: Dataset, near: dict[str, Dataset] | None = None, far: dict[str, Dataset] | None = None,
        class_names: list[str] | None = None, batch_size: int = 256, num_workers: int = 4, seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        near, far = near or {}, far or {}
        if not near | far or set(near) & set(far):
            raise ValueError(f"OOD sets must be near or far, and there must be one: got {list(near)} and {list(far)}")
        self.id_set, self.ood_sets = id_set, {**near, **far}
        self.groups = {name: "near" if name in near else "far" for name in self.ood_sets}
        self.class_names = class_names or getattr(id_set, "classes", None)
        self.batch_size, self.num_workers, self.seed, self.transform = batch_size, num_workers, seed, transform

    def setup(self, stage: str) -> None:
        """Mix the streams, with the model's preprocessing unless a transform was given."""
        transform: Any = self.transform or self.trainer.lightning_module.preprocess  # type: ignore[union-attr]
        self.streams = {name: MixedStream(self.id_set, ood, transform, self.seed) for name, ood in self.ood_sets.items()}

    def test_dataloader(self) -> dict[str, DataLoader]:
        """One loader a stream, in stream order; over several ranks without the padding of Lightning's own sampler."""
        return {name: self._loader(stream) for name, stream in self.streams.items()}

    predict_dataloader = test_dataloader

    def _loader(self, stream: MixedStream) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank  # type: ignore[union-attr]
        sampler = UnrepeatedDistributedSampler(stream, world, rank, shuffle=False) if world > 1 else None
        return DataLoader(stream, batch_size=self.batch_size, sampler=sampler, num_workers=self.num_workers)
