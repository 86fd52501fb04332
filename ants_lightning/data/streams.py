"""Seeded streams of an ID and one or more OOD sets, and the data module that serves them."""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset

from ants_lightning.common.hashes import digest
from ants_lightning.data.calibration import calibration_loader
from ants_lightning.data.class_names import read_class_names
from ants_lightning.data.columns import id_label, knows_paths, path_of
from ants_lightning.data.features import FeatureCache, FeatureStream, encode_sets, tower_identity
from ants_lightning.data.reading import collate, lost_item, read_item, to_rgb
from ants_lightning.data.stream_loader import RankShare
from ants_lightning.data.stream_order import stream_counts, stream_order


class MixedStream(Dataset):
    """An ID set mixed with one or more OOD sets, in a seeded order that belongs to the data set.

    Labels are those of the ID set (negative ones are refused), and -1, -2, … for the OOD sets in the order of
    `ood_names`. `sets` are the data sets, ID first; `order` (n,) are places in their concatenation.

    Args:
        id_set: map-style data set of `(PIL image, label)`, label in 0…C-1.
        ood_sets: the same, or several by name; their labels are not looked at.
        transform: from a PIL image to the tensor that the model takes.
        seed: of the order and of what is left out.
        order: `mixed`, `id_first` or `blocks`: see `stream_order`.
        ood_share: share of OOD images, and
        size: number of images: see `stream_counts`.
    """

    def __init__(
        self,
        id_set: Dataset,
        ood_sets: Dataset | Mapping[str, Dataset],
        transform: Callable[[Any], Any],
        seed: int = 0,
        order: str = "mixed",
        ood_share: float | None = None,
        size: int | None = None,
    ) -> None:
        named = dict(ood_sets) if isinstance(ood_sets, Mapping) else {"ood": ood_sets}
        if "id" in named:
            raise ValueError(f"an OOD set cannot be named 'id': {list(named)}")
        self.sets, self.ood_names = (id_set, *named.values()), list(named)
        self.transform, self.seed, self.kind = transform, seed, order
        self.has_paths = any(knows_paths(s) for s in self.sets)
        available = [len(s) for s in self.sets]  # type: ignore[arg-type]
        self._starts = [0, *accumulate(available)][:-1]
        self.counts = stream_counts(available, ood_share, size)
        self.order = stream_order(available, self.counts, order, seed)

    def __len__(self) -> int:
        return len(self.order)

    def description(self) -> dict[str, Any]:
        """What tells this stream from another, as plain JSON.

        The hash is that of `order` as little-endian int64.
        """
        return {
            "order": self.kind,
            "seed": self.seed,
            "ood_share": sum(self.counts[1:]) / len(self),
            "size": len(self),
            "sets": dict(zip(["id", *self.ood_names], self.counts, strict=True)),
            "order_sha256": digest(self.order.numpy().astype("<i8").tobytes()),
        }

    def _place(self, index: int) -> tuple[int, int]:
        """Which set, and where in it."""
        place = int(self.order[index])
        which = bisect_right(self._starts, place) - 1
        return which, place - self._starts[which]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`, `label` (negative = OOD) and `index` of a place in the stream.

        With `has_paths` also its `path`.

        Of an image that cannot be had `lost` alone, for `collate`; its label is then `label_of`, as the set
        tells it.
        """
        which, place = self._place(index)
        image, label, why = read_item(self.sets[which], place, self.transform)
        label = -which if which else id_label(label, place, self.sets[0], negative=bool(why))
        if why:
            return lost_item(index, label, self.path(index), why)
        return {
            "image": image,
            "label": label,
            "index": index,
            **({"path": self.path(index)} if self.has_paths else {}),
        }

    def path(self, index: int) -> str:
        """The path of the image at a place in the stream; "" where its set does not tell it."""
        which, place = self._place(index)
        return path_of(self.sets[which], place)

    def raw_image(self, index: int) -> Any:
        """The untransformed RGB PIL image at a place in the stream, for the MLLM."""
        which, place = self._place(index)
        return to_rgb(self.sets[which][place][0])


class OODDataModule(L.LightningDataModule):
    """Test streams from map-style data sets: the ID set mixed with each OOD set, or with several together.

    No OOD set, a name in both groups, fewer class names than classes, or a `mix` of unknown or repeated sets
    is a ValueError; so is, at set-up, a first ID image of which the label is no number from 0 on.

    Args:
        id_set: data set of `(PIL image, label)`.
        near: near-OOD sets by name.
        far: far-OOD sets by name.
        class_names: ID class names in the order of the labels, or a text file with one a line; None:
            `id_set.classes`, with spaces for underscores.
        batch_size: images per batch and device.
        num_workers: of the loaders.
        seed: of the order of the streams and of what is left out.
        transform: PIL image → tensor; None: the model's own preprocessing.
        order: `mixed`, `id_first` or `blocks`: see `stream_order`.
        ood_share: share of OOD images in each stream, in (0, 1); None: all images are used.
        size: images in each stream; None: all.
        mix: streams made of several OOD sets: name → names of sets. Sets in no mix keep a stream of their
            own. The group of a mix is that of its sets, or `mixed`.
        features: folder of a feature cache, made by `ants-lightning encode`: batches hold features in place
            of images.
        calibration: labelled ID images, for `ANTS(threshold={"id_recall": …})`; they are in no stream.
    """

    def __init__(
        self,
        id_set: Dataset,
        near: dict[str, Dataset] | None = None,
        far: dict[str, Dataset] | None = None,
        class_names: list[str] | str | None = None,
        batch_size: int = 256,
        num_workers: int = 4,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        order: str = "mixed",
        ood_share: float | None = None,
        size: int | None = None,
        mix: dict[str, list[str]] | None = None,
        features: str | None = None,
        calibration: Dataset | None = None,
    ) -> None:
        super().__init__()
        self.features, self.calibration = features, calibration
        near, far = near or {}, far or {}
        if not near | far or set(near) & set(far):
            raise ValueError(
                f"OOD sets must be near or far, and there must be one: got {list(near)} and {list(far)}"
            )
        self.id_set, self.ood_sets, self.mix = id_set, {**near, **far}, mix or {}
        for name, members in self.mix.items():
            if not members or not set(members) <= set(self.ood_sets) or len(set(members)) < len(members):
                raise ValueError(
                    f"mix {name!r} must name different OOD sets of {list(self.ood_sets)}, got {members}"
                )
            if name in self.ood_sets:
                raise ValueError(f"mix {name!r} has the name of an OOD set")
        self.groups = {}
        for name, members in self._members().items():
            kinds = {"near" if member in near else "far" for member in members}
            self.groups[name] = kinds.pop() if len(kinds) == 1 else "mixed"
        self.class_names = _class_names(class_names, getattr(id_set, "classes", None))
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.transform = seed, transform
        self.order, self.ood_share, self.size = order, ood_share, size

    def _members(self) -> dict[str, list[str]]:
        """OOD sets of each stream: the mixes, then the sets in no mix."""
        mixed = {name for members in self.mix.values() for name in members}
        return {**self.mix, **{name: [name] for name in self.ood_sets if name not in mixed}}

    def setup(self, stage: str) -> None:
        """Mix the streams, with the model's preprocessing unless a transform was given."""
        if stage == "validate":
            return
        # With a transform of its own it needs no trainer
        model: Any = self.trainer and self.trainer.lightning_module
        transform = self.transform or model.preprocess
        _, label, why = read_item(self.id_set, 0, lambda image: image)  # before anything is loaded
        if not why:
            id_label(label, 0, self.id_set)
        self.streams: dict[str, MixedStream | FeatureStream] = {}
        for name, members in self._members().items():
            sets = {member: self.ood_sets[member] for member in members}
            try:
                self.streams[name] = MixedStream(
                    self.id_set, sets, transform, self.seed, self.order, self.ood_share, self.size
                )
            except ValueError as error:
                raise ValueError(f"stream {name!r}: {error}") from error
        if self.features is not None:
            cached = FeatureCache(self.features, tower_identity(model.clip, transform, self.trainer)).read(
                self._sets()
            )
            self.streams = {
                name: FeatureStream(
                    stream, [cached["id"], *(cached[f"ood {member}"] for member in stream.ood_names)]
                )
                for name, stream in self.streams.items()
            }

    def test_dataloader(self) -> dict[str, DataLoader]:
        """One loader for each stream, in order; over several ranks without Lightning's padding."""
        return {name: self._loader(stream) for name, stream in self.streams.items()}

    predict_dataloader = test_dataloader

    def val_dataloader(self) -> DataLoader | list[Any]:
        """The labelled ID images to set a threshold by; all of them on every rank."""
        if self.calibration is None:
            return []
        model: Any = self.trainer and self.trainer.lightning_module
        return calibration_loader(
            self.calibration, self.transform or model.preprocess, self.batch_size, self.num_workers
        )

    def _sets(self) -> dict[str, Dataset]:
        """Every data set, by its name in a feature cache."""
        return {"id": self.id_set, **{f"ood {name}": ood_set for name, ood_set in self.ood_sets.items()}}

    def encode(self, trainer: L.Trainer, model: Any) -> list[str]:
        """Encode the data sets that are not in the folder `features` yet; returns their names."""
        if self.features is None:
            raise ValueError("where to? Give the data module a folder: --data.features")
        transform = self.transform or model.preprocess
        return encode_sets(
            trainer, model, self._sets(), transform, self.features, self.batch_size, self.num_workers
        )

    def _loader(self, stream: MixedStream | FeatureStream) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank  # type: ignore[union-attr]
        sampler = RankShare(range(len(stream)), world, rank) if world > 1 else None
        if isinstance(stream, FeatureStream):
            return stream.loader(self.batch_size, sampler)
        return DataLoader(
            stream,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
        )


def _class_names(given: list[str] | str | None, classes: Sequence[str] | None) -> list[str] | None:
    if given is None:
        return (
            None
            if classes is None
            else [name.replace("_", " ") if isinstance(name, str) else name for name in classes]
        )
    names = read_class_names(given) if isinstance(given, str | os.PathLike) else given
    if classes is not None and len(names) < len(classes):
        raise ValueError(f"{len(names)} class names for the {len(classes)} classes of the ID set")
    return names
