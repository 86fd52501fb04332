"""Snapshots on disk: nested state as safetensors and JSON, without pickle; a damaged one is noticed."""

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ants_lightning.common.hashes import canonical, digest

FORMAT = 1
_PARTIAL = ".partial-"


def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Plain JSON of nested state; `unpack` turns it back.

    A state has dicts with str keys, lists, tensors, strings, numbers, bools and None.

    Exactly the same comes back, to the last bit. The tensors go into `tensors`, by their path; those that are
    not on the CPU go back to the device that `unpack` is given. TypeError, with the path, for anything else.
    """
    if isinstance(value, Tensor):
        name = f"{len(tensors)} {path}".encode("utf-8", "backslashreplace").decode()
        tensors[name] = value
        return {"$tensor": name, "$here": value.device.type == "cpu"}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [pack(item, tensors, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path}: the key {key!r} is no string")
        return {
            f"${key}" if key.startswith("$") else key: pack(item, tensors, f"{path}.{key}")
            for key, item in value.items()
        }
    raise TypeError(f"{path} cannot be kept: {type(value).__name__}")


def unpack(tree: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The state that `pack` was given."""
    if isinstance(tree, list):
        return [unpack(item, tensors, device) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]].to("cpu" if tree["$here"] else device)
    if "$float" in tree:
        return float(tree["$float"])
    return {key.removeprefix("$"): unpack(item, tensors, device) for key, item in tree.items()}


def write_share(folder: Path, rank: int, about: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """Write one rank's files of a snapshot, down to the disk; returns their size in bytes.

    An OSError where they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict[str, Tensor]()
    tree = pack(state, tensors)
    # Cloned, for safetensors takes no two tensors that share memory.
    blob = save(
        {
            name: x.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, x in tensors.items()
        }
    )
    content = {**about, "state": tree, "tensors": {"size": len(blob), "sha256": digest(blob)}}
    text = canonical({"content": content, "sha256": digest(canonical(content))})
    for suffix, part in (("safetensors", blob), ("json", text)):
        with (folder / f"rank{rank}.{suffix}").open("wb") as file:
            file.write(part)
            file.flush()
            os.fsync(file.fileno())
    return len(blob) + len(text)


def read_about(folder: Path, rank: int) -> dict[str, Any]:
    """The JSON of one rank; ValueError where it is missing or not what was written."""
    path = folder / f"rank{rank}.json"
    try:
        whole = json.loads(path.read_bytes())
        content = whole["content"]
        good = whole["sha256"] == digest(canonical(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not good:
        raise ValueError(f"{path} is not what was written")
    return content


def read_share(folder: Path, rank: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One rank's JSON and tensors; ValueError where a file is missing or not what was written."""
    about, path = read_about(folder, rank), folder / f"rank{rank}.safetensors"
    try:
        blob = path.read_bytes()
        if len(blob) != about["tensors"]["size"] or digest(blob) != about["tensors"]["sha256"]:
            raise ValueError(f"{len(blob)} bytes that are not the {about['tensors']['size']} written")
        return about, load(blob)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def list_snapshots(root: Path) -> list[Path]:
    """The snapshot folders below `root`, newest first: numbered, with nothing in them but files of ranks."""
    found = [path for path in _numbered(root) if _only_shares(path) and any(path.iterdir())]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def next_serial(root: Path) -> int:
    """A number that is above all that are taken below `root`, by snapshots or anything else."""
    return 1 + max((int(path.name) for path in _numbered(root)), default=0)


def _numbered(root: Path) -> list[Path]:
    return [path for path in root.glob("*") if re.fullmatch("[0-9]{1,18}", path.name)]


def _only_shares(folder: Path) -> bool:
    """Whether it is a folder with nothing but files of ranks, or nothing at all."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(
        re.fullmatch(r"rank[0-9]+\.(json|safetensors)", path.name) and path.is_file()
        for path in folder.iterdir()
    )


def remove(folder: Path) -> None:
    """Remove a snapshot, or what there is of one, file by file.

    It stays where something else is in it, or the disk refuses.
    """
    with suppress(OSError):
        if _only_shares(folder):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def partial(root: Path, serial: int) -> Path:
    """The folder of a snapshot that is being written."""
    return root / f"{_PARTIAL}{serial:06d}"


def publish(root: Path, serial: int, world: int, keep: int) -> None:
    """Make the written snapshot visible, and remove all but the newest `keep`.

    An OSError where the file of a rank is not there.
    """
    new = partial(root, serial)
    for rank in range(world):
        if not (new / f"rank{rank}.json").is_file():
            raise FileNotFoundError(f"no file of rank {rank} in {new}: all ranks must share this folder")
    _sync_folder(new)
    new.rename(root / f"{serial:06d}")
    _sync_folder(root)
    for old in list_snapshots(root)[keep:]:
        going = root / f"{_PARTIAL}{old.name}"  # never half a snapshot under its name
        old.rename(going)
        remove(going)


def sweep(root: Path) -> None:
    """Remove what was being written or removed when a run was killed."""
    for path in root.glob(f"{_PARTIAL}*"):
        if path.name.removeprefix(_PARTIAL).isdecimal():
            remove(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
