"""`FeatureCache`: the files that hold encoded data sets, and how they are known to be right."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ants_lightning.common.files import replacing, write_atomically
from ants_lightning.common.hashes import bytes_of, digest, digest_of, pixel_hash
from ants_lightning.common.run_folder import file_name
from ants_lightning.common.settings import plain_path
from ants_lightning.data.columns import NO_LABEL, knows_paths, path_of, told_labels, whole
from ants_lightning.data.reading import attempt

ID = "id"  # the set whose labels count
_OURS = {"made_by": "ants_lightning", "kind": "feature cache"}
_PROBES = 16  # images of a set that are looked at to know it again


def _look_at(dataset: Any) -> tuple[dict[str, Any], dict[int, Any]]:
    """`set_identity`, and the labels of the images that it has looked at, by place."""
    n = len(dataset)
    names = [path_of(dataset, i).rsplit("/", 1)[-1] for i in range(n)] if knows_paths(dataset) else []
    places = sorted({i * (n - 1) // max(1, _PROBES - 1) for i in range(_PROBES)}) if n else []
    items = [attempt(lambda i=i: (pixel_hash((item := dataset[i])[0]), item[1]))[0] for i in places]
    seen = [item and item[0] for item in items]  # None: unreadable, now as then
    labels = {i: item[1] for i, item in zip(places, items, strict=True) if item}
    return {"n": n, "content": digest(json.dumps([names, seen]).encode())}, labels


def set_identity(dataset: Any) -> dict[str, Any]:
    """What a data set is known by: size, paths if it has some, and the pixels of 16 images spread over it."""
    return _look_at(dataset)[0]


def _digest(columns: Mapping[str, Tensor]) -> str:
    """SHA-256 of columns with their names, types and shapes."""
    parts = [
        (f"{name} {column.dtype} {tuple(column.shape)};".encode(), bytes_of(column))
        for name, column in sorted(columns.items())
    ]
    return digest_of(part for pair in parts for part in pair)


def save_columns(columns: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of ours, whole or not at all."""
    with replacing(path) as new:
        save_file({key: column.contiguous() for key, column in columns.items()}, new, metadata=_OURS)


def read_columns(path: Path) -> dict[str, Tensor]:
    """What `save_columns` wrote; a ValueError that names the file where it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return {**_OURS, **(file.metadata() or {})} == (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


class FeatureCache:
    """A folder with `index.json` and, for each data set, `<name>.safetensors`, in its order.

    That has `features` (n, d), `label` (n,) and `readable` (n,); features of images that could not be had are
    NaN. The index has what each set and its columns are known by: a set is refused that is not what was
    encoded, and a file that is not what was written. Labels are not part of that: those of the set `id` are
    as the data set tells them now. A file of others in the place of one of ours is a ValueError, and stays as
    it is.

    Args:
        folder: need not exist yet.
        tower: `tower_identity` of this run.
    """

    def __init__(self, folder: Path | str, tower: Mapping[str, str]) -> None:
        self.folder, self.tower = Path(plain_path(folder)), dict(tower)

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        if not os.path.lexists(path):
            return {}
        try:
            content = json.loads(path.read_bytes())
            if {**content, **_OURS} == content and all(
                isinstance(entry, dict) for entry in content["sets"].values()
            ):
                return content["sets"]
            why = "it was not written by `ants-lightning encode`"
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is no index of a feature cache, or damaged ({why}). It is left as it is: take it away "
            "and encode again, or choose another folder for the features"
        )

    def find(self, name: str, dataset: Any) -> tuple[dict[str, Tensor], str]:
        """The columns of a data set, and ""; or nothing, and why they cannot be used."""
        entry, path = self._index().get(name), self._file(name)
        if entry is None or not path.is_file():
            return {}, f"{name} is not in {self.folder}"
        identity, seen = _look_at(dataset)
        here = {**identity, **self.tower}
        if why := "; ".join(
            f"{name}: {k} was {entry.get(k)!r}, now {v!r}" for k, v in here.items() if entry.get(k) != v
        ):
            return {}, why
        try:
            columns = read_columns(path)
        except ValueError as error:
            return {}, f"{name}: features: {error}"
        if _digest(columns) != entry.get("sha256"):
            return (
                {},
                f"{name}: features: {path} does not hold what was encoded (altered, torn, or of another set)",
            )
        told = columns.pop("told", None)
        if name != ID:
            return columns, ""
        label, why = _labels_now(columns, told, dataset, seen)
        return ({}, f"{name}: {why}") if why else ({**columns, "label": label}, "")

    def read(self, sets: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """The columns of a data set by name.

        A ValueError tells all sets that are missing or were encoded otherwise.
        """
        found = {name: self.find(name, dataset) for name, dataset in sets.items()}
        if wrong := [why for _, why in found.values() if why]:
            raise ValueError("; ".join(wrong) + ": run `ants-lightning encode` with this configuration first")
        return {name: columns for name, (columns, _) in found.items()}

    def prepare(self, names: Iterable[str], world: int) -> None:
        """Before the work: check that the folder can be written to, and holds no files of others."""
        index = self._index()
        for name in names:
            self.folder.mkdir(parents=True, exist_ok=True)
            own = [self._file(name)] if name not in index else []
            for path in [*own, *(self.part(name, rank) for rank in range(world))]:
                if os.path.lexists(path) and not _is_ours(path):
                    raise ValueError(
                        f"{path} is not of `ants-lightning encode`, and is left as it is: choose another "
                        f"folder"
                    )
            trial = self.folder / f"{self._file(name).name}.{uuid.uuid4().hex[:8]}.new"
            trial.touch()
            trial.unlink()

    def write(self, name: str, dataset: Any, rows: Mapping[str, Tensor]) -> None:
        """Keep the columns of a data set."""
        told = told_labels(dataset) if name == ID else None
        columns = {**rows, **({} if told is None else {"told": told})}
        save_columns(columns, self._file(name))
        entry = {**set_identity(dataset), **self.tower, "sha256": _digest(columns)}
        content = {**_OURS, "sets": {**self._index(), name: entry}}
        write_atomically(self.folder / "index.json", (json.dumps(content, indent=1) + "\n").encode())

    def _file(self, name: str) -> Path:
        return self.folder / f"{file_name(name)}.safetensors"

    def part(self, name: str, rank: int) -> Path:
        """What a rank has encoded of a set."""
        return self.folder / f"{file_name(name)}.rank{rank}"


def _labels_now(
    columns: Mapping[str, Tensor], then: Tensor | None, dataset: Any, seen: Mapping[int, Any]
) -> tuple[Tensor, str]:
    """The labels `(n,)` of the ID set today, and ""; or why they are not known without decoding its images.

    Where `then`, the column of labels that the data set had when it was encoded, was what its items gave, the
    column of today counts. Otherwise (labels are changed on the way, or there is no column) nothing may have
    changed, as far as that can be seen.

    Args:
        columns: `label` and `readable`, as encoded.
        then: `(n,)` or None.
        dataset: the ID set.
        seen: labels of some images, by place, as their items give them today.
    """
    encoded, readable, now = columns["label"], columns["readable"], told_labels(dataset)
    label = encoded
    if now is not None:
        before = encoded if then is None else then
        differs = (now != before) & readable
        if then is not None and torch.equal(then[readable], encoded[readable]):
            label = now
        elif differs.any():
            i = int(differs.nonzero()[0])
            return (
                label,
                f"label of image {i} was {_told(before[i])} when it was encoded, now {_told(now[i])}",
            )
    for i, value in seen.items():
        if whole(value) != int(label[i]):
            return label, f"label of image {i} was {int(label[i])} when it was encoded, now {value!r:.80}"
    bad = (label < 0) & readable
    if bad.any():
        i = int(bad.nonzero()[0])
        return label, f"label of image {i} is {_told(label[i])}: it must be a number 0…C-1"
    return label, ""


def _told(label: Tensor) -> Any:
    return "no whole number" if label == NO_LABEL else int(label)
