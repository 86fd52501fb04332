"""The feature cache: data sets encoded once, and any number of adaptations run from their features."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ants_lightning.clip.fingerprints import image_tower_hash
from ants_lightning.data.calibration import LabelledImages
from ants_lightning.data.feature_files import ID, FeatureCache, read_columns, save_columns
from ants_lightning.data.reading import collate, lost_item
from ants_lightning.data.stream_loader import RankShare
from ants_lightning.distributed import gather_json

logger = logging.getLogger(__name__)

UNREADABLE = "unreadable when encoded"


def tower_identity(clip: Any, preprocess: Any, trainer: Any) -> dict[str, str]:
    """All that image features depend on: the weights of the image tower, the preprocessing, the precision."""
    return {
        "image_tower": image_tower_hash(clip),
        "preprocess": repr(preprocess),
        "precision": str(trainer.precision),
    }


class FeatureStream(Dataset):
    """A stream whose batches hold `features` in place of `image`.

    The MLLM still gets the images, by index.

    Images that were unreadable when they were encoded are told in `lost`, as by `MixedStream`.

    Args:
        stream: the `MixedStream` of images.
        cached: what `FeatureCache.read` gave for each of `stream.sets`.
    """

    def __init__(self, stream: Any, cached: Sequence[Mapping[str, Tensor]]) -> None:
        self.stream, self.cached = stream, cached
        self.ood_names, self.order = stream.ood_names, stream.order
        self.raw_image, self.description = stream.raw_image, stream.description
        self._ends = torch.tensor([len(part["label"]) for part in cached]).cumsum(0)

    def __len__(self) -> int:
        return len(self.stream)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch: `features` `(n, d)`, `label` and `index` `(n,)`; `path` and `lost` if any."""
        index = torch.as_tensor(indices)
        places = self.stream.order[index]
        which = torch.bucketize(places, self._ends, right=True)
        features = torch.empty(len(index), self.cached[0]["features"].shape[1])
        label = -which  # the first OOD set has -1
        readable = torch.ones(len(index), dtype=torch.bool)
        for i, part in enumerate(self.cached):
            here = which == i
            rows = places[here] - (self._ends[i - 1] if i else 0)
            features[here] = part["features"][rows]
            if "readable" in part:
                readable[here] = part["readable"][rows]
            if i == 0:
                label[here] = part["label"][rows]
        batch: dict[str, Any] = {
            "features": features[readable],
            "label": label[readable],
            "index": index[readable],
        }
        if self.stream.has_paths:
            batch["path"] = [self.stream.path(i) for i in batch["index"].tolist()]
        missing = zip(index[~readable].tolist(), label[~readable].tolist(), strict=True)
        lost = [lost_item(i, of_image, self.stream.path(i), UNREADABLE)["lost"] for i, of_image in missing]
        return {**batch, "lost": lost} if lost else batch

    def loader(self, batch_size: int, sampler: Any) -> DataLoader:
        """Batches as `__getitems__` makes them; in this process, for there is nothing to decode."""
        return DataLoader(self, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


class _Encoder(L.LightningModule):
    """Runs the image tower of `ANTS` over one data set, and writes what every rank has found."""

    def __init__(
        self,
        model: Any,
        name: str,
        images: LabelledImages,
        cache: FeatureCache,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.model, self.name, self.images, self.cache = model, name, images, cache
        self.batch_size, self.workers = batch_size, workers
        number = torch.empty(0, dtype=torch.long)
        self.no_features = torch.empty(0, model.spaces.id_text.shape[1], dtype=torch.float32)
        self.rows = [
            {"features": self.no_features, "label": number, "index": number, "readable": number.bool()}
        ]
        self.first_lost = ""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share, none of it twice."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = RankShare(range(len(self.images)), world, rank) if world > 1 else None
        return DataLoader(
            self.images,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=collate,
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Encode a batch; returns which images it held."""
        lost = batch.get("lost", [])
        self.first_lost = self.first_lost or "".join("{path} {why}".format(**one) for one in lost[:1])
        good = self.model.encode(batch["image"])[0].cpu() if len(batch["image"]) else self.no_features
        row = {"features": torch.cat([good, good.new_full((len(lost), good.shape[1]), torch.nan)])}
        for name in ("label", "index"):
            row[name] = torch.cat(
                [batch[name].cpu(), torch.tensor([one[name] for one in lost], dtype=torch.long)]
            )
        self.rows.append({**row, "readable": torch.arange(len(row["index"])) < len(good)})
        return batch["index"]

    def on_predict_epoch_end(self) -> None:
        """Each rank writes its rows, and the first puts them in order."""
        here = {key: torch.cat([row[key] for row in self.rows]) for key in self.rows[0]}
        save_columns(here, self.cache.part(self.name, self.global_rank))
        self.n_lost = sum(gather_json(int((~here["readable"]).sum())))  # waits for all to have written
        n = len(self.images)
        if self.global_rank == 0:
            parts = [self.cache.part(self.name, rank) for rank in range(self.trainer.world_size)]
            found = [read_columns(part) for part in parts]
            rows = {key: torch.cat([part[key] for part in found]) for key in found[0]}
            order = rows.pop("index").argsort()
            if self.n_lost:
                logger.warning(
                    "%s: %d of %d images cannot be read: %s, …", self.name, self.n_lost, n, self.first_lost
                )
            if self.n_lost < n:
                self.cache.write(
                    self.name, self.images.dataset, {key: column[order] for key, column in rows.items()}
                )
            for part in parts:
                part.unlink()
        self.trainer.strategy.barrier()


def encode_sets(
    trainer: L.Trainer,
    model: Any,
    sets: Mapping[str, Any],
    transform: Callable[[Any], Tensor],
    folder: str,
    batch_size: int,
    workers: int,
) -> list[str]:
    """Encode the data sets that are not in the folder yet, over all devices.

    Args:
        trainer: its devices and precision are used, by `trainer.predict`.
        model: an `ANTS`.
        sets: map-style data sets of `(PIL image, label)` by name.
        transform: PIL image → tensor.
        folder: of the cache.
        batch_size: images per batch and device.
        workers: of the loaders.

    Returns:
        The names of those that were encoded. A data set of which no image can be read is a ValueError; so is,
        before any is encoded, a file of others in the place of one of ours.
    """
    cache = FeatureCache(folder, tower_identity(model.clip, transform, trainer))
    missing = [name for name, dataset in sets.items() if cache.find(name, dataset)[1]]
    cache.prepare(missing, trainer.world_size)
    for name in missing:
        images = LabelledImages(sets[name], transform, labelled=name == ID)
        encoder = _Encoder(model, name, images, cache, batch_size, workers)
        trainer.predict(encoder, return_predictions=False)
        if encoder.n_lost == len(images):  # on every rank, so that none waits for another
            raise ValueError(f"{name}: none of the {len(images)} images can be read: {encoder.first_lost}, …")
        if why := cache.find(name, sets[name])[1]:
            raise ValueError(why)
    return missing
