"""The feature cache: data sets encoded once, and any number of adaptations run from their features."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ants_lightning.mllm.record import pixel_hash

_PROBES = 16  # images of a set that are looked at to know it again


def set_identity(dataset: Any) -> dict[str, Any]:
    """What a data set is known by: its size, its paths where it has some, and the pixels of 16 images spread evenly over it."""
    n = len(dataset)
    paths = next((getattr(dataset, name) for name in ("paths", "samples", "imgs") if hasattr(dataset, name)), None)
    names = [str(path[0] if isinstance(path, tuple) else path).rsplit("/", 1)[-1] for path in paths or ()]
    places = sorted({i * (n - 1) // max(1, _PROBES - 1) for i in range(_PROBES)}) if n else []
    seen = [pixel_hash(dataset[i][0]) for i in places]
    return {"n": n, "content": hashlib.sha256(json.dumps([names, seen]).encode()).hexdigest()}


def tower_identity(clip: Any, preprocess: Any, trainer: Any) -> dict[str, str]:
    """All that image features depend on: the weights of the image tower, the preprocessing, the precision."""
    digest = hashlib.sha256()
    for name, tensor in clip.visual.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return {"image_tower": digest.hexdigest(), "preprocess": repr(preprocess), "precision": str(trainer.precision)}


class FeatureCache:
    """A folder with `index.json` and, for each data set, `<name>.safetensors`: `features` (n, d) and `label` (n,), in its order.

    Args:
        folder: need not exist yet.
        tower: `tower_identity` of this run.
    """

    def __init__(self, folder: Path | str, tower: Mapping[str, str]) -> None:
        self.folder, self.tower = Path(folder), dict(tower)

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def difference(self, name: str, dataset: Any) -> str:
        """Why the features of a data set cannot be used; empty where they can."""
        entry = self._index().get(name)
        if entry is None or not self._file(name).is_file():
            return f"{name} is not in {self.folder}"
        here = {**set_identity(dataset), **self.tower}
        return "; ".join(f"{name}: {k} was {entry.get(k)!r}, now {v!r}" for k, v in here.items() if entry.get(k) != v)

    def read(self, sets: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """`features` and `label` by name of a data set; a ValueError tells all sets that are missing or were encoded otherwise."""
        wrong = [why for why in (self.difference(name, dataset) for name, dataset in sets.items()) if why]
        if wrong:
            raise ValueError("; ".join(wrong) + ": run `ants-lightning encode` with this configuration first")
        return {name: load_file(self._file(name)) for name in sets}

    def write(self, name: str, dataset: Any, rows: Mapping[str, Tensor]) -> None:
        """Keep `features` (n, d) and `label` (n,) of a data set."""
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._file(name).with_suffix(".new")
        save_file({key: column.contiguous() for key, column in rows.items()}, new)
        os.replace(new, self._file(name))
        index = {**self._index(), name: {**set_identity(dataset), **self.tower}}
        new = self.folder / "index.new"
        new.write_text(json.dumps(index, indent=1) + "\n", "utf-8")
        os.replace(new, self.folder / "index.json")

    def _file(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.safetensors"


class FeatureStream(Dataset):
    """A stream of which the batches hold `features` in place of `image`; the MLLM still gets the images, by index.

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

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once: `features` (n, d), `label` and `index` (n,)."""
        index = torch.as_tensor(indices)
        places = self.stream.order[index]
        which = torch.bucketize(places, self._ends, right=True)
        features = torch.empty(len(index), self.cached[0]["features"].shape[1])
        label = -which  # the first OOD set has -1
        for i, part in enumerate(self.cached):
            here = which == i
            rows = places[here] - (self._ends[i - 1] if i else 0)
            features[here] = part["features"][rows]
            if i == 0:
                label[here] = part["label"][rows]
        return {"features": features, "label": label, "index": index}

    def loader(self, batch_size: int, sampler: Any) -> DataLoader:
        """Batches as `__getitems__` makes them; in this process, for there is nothing to decode."""
        return DataLoader(self, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


class _Transformed(Dataset):
    def __init__(self, dataset: Any, transform: Callable[[Any], Tensor]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.dataset[index]
        return {"image": self.transform(image), "label": int(label), "index": index}


class _Encoder(L.LightningModule):
    """Runs the image tower of `ANTS` over one data set, and writes what every rank has found."""

    def __init__(self, model: Any, name: str, images: _Transformed, cache: FeatureCache, batch_size: int, workers: int) -> None:
        super().__init__()
        self.model, self.name, self.images, self.cache = model, name, images, cache
        self.batch_size, self.workers = batch_size, workers
        self.rows: list[dict[str, Tensor]] = []

    def predict_dataloader(self) -> DataLoader:
        """This rank's share, none of it twice."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = UnrepeatedDistributedSampler(self.images, world, rank, shuffle=False) if world > 1 else None
        return DataLoader(self.images, batch_size=self.batch_size, sampler=sampler, num_workers=self.workers)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Encode a batch; returns which images it held."""
        features = self.model.encode(batch["image"])[0]
        self.rows.append({"features": features.cpu(), "label": batch["label"].cpu(), "index": batch["index"].cpu()})
        return batch["index"]

    def _part(self, rank: int) -> Path:
        return self.cache.folder / f"{quote(self.name, safe='')}.rank{rank}"

    def on_predict_epoch_end(self) -> None:
        """Each rank writes its rows, and the first puts them in order."""
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        save_file({key: torch.cat([row[key] for row in self.rows]) for key in self.rows[0]}, self._part(self.global_rank))
        self.trainer.strategy.barrier()
        if self.global_rank == 0:
            parts = [load_file(self._part(rank)) for rank in range(self.trainer.world_size)]
            rows = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            order = rows.pop("index").argsort()
            self.cache.write(self.name, self.images.dataset, {key: column[order] for key, column in rows.items()})
            for rank in range(self.trainer.world_size):
                self._part(rank).unlink()
        self.trainer.strategy.barrier()


def encode_sets(
    trainer: L.Trainer, model: Any, sets: Mapping[str, Any], transform: Callable[[Any], Tensor], folder: str, batch_size: int,
    workers: int,
) -> list[str]:  # fmt: skip
    """Encode the data sets that are not in the folder yet, with this model, preprocessing and precision; over all devices.

    Args:
        trainer: its devices and precision are used, by `trainer.predict`.
        model: an `ANTS`.
        sets: map-style data sets of `(PIL image, label)` by name.
        transform: PIL image → tensor.
        folder: of the cache.
        batch_size: images per batch and device.
        workers: of the loaders.

    Returns:
        The names of those that were encoded.
    """
    cache = FeatureCache(folder, tower_identity(model.clip, transform, trainer))
    missing = [name for name, dataset in sets.items() if cache.difference(name, dataset)]
    for name in missing:
        dataset = sets[name]
        encoder = _Encoder(model, name, _Transformed(dataset, transform), cache, batch_size, workers)
        trainer.predict(encoder, return_predictions=False)
    return missing
