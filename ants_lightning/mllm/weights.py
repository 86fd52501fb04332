"""Whether the weight files of a model are whole, told from their headers."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs"

Find = Callable[[str], Path | None]  # the path of one of a model's files, None if it is not there


def check_folder(folder: Path, own_name: str | None = None) -> None:
    """OSError, with the file's name, unless all weights of the model in a folder are there and look whole.

    Args:
        folder: of the model.
        own_name: of the weight file or index, where the model's configuration gives one
            (`transformers_weights`).
    """
    present = _check(lambda name: folder / name if (folder / name).exists() else None, own_name)
    if not present:
        others = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix in (".bin", ".pt", ".pth", ".safetensors", ".gguf")
        )
        raise OSError(
            f"{folder}: no {own_name or SINGLE} and no {INDEX} in it"
            + (f", but {', '.join(others[:3])}: only safetensors in that form are read" if others else "")
        )


def check_cache(name: str, revision: str | None, own_name: str | None = None) -> None:
    """The same for what is there already of a model of the hub; the rest is still to come."""

    def find(file: str) -> Path | None:
        path = try_to_load_from_cache(name, file, revision=revision)
        return Path(path) if isinstance(path, str) else None

    _check(find, own_name, partly=True)


def pointers(folder: Path) -> list[str]:
    """Names of the small files of a folder that stand for others: git-lfs has not fetched those."""
    return [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file() and path.stat().st_size < 1024 and is_pointer(path)
    ]


def is_pointer(path: Path) -> bool:
    """Whether a file only tells git-lfs what belongs there."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _check(find: Find, own_name: str | None, partly: bool = False) -> bool:
    """Check one weight file, or those of an index; whether there is either."""
    name = own_name or (SINGLE if find(SINGLE) else INDEX)
    path = find(name)
    if path is None:
        return False
    if not name.endswith(".index.json"):
        _tensors(path)
        return True
    for file, wanted in _read_index(path).items():
        part = find(file)
        if part is None and not partly:
            raise OSError(f"{path} names {file}, which is not there: fetch the model again")
        if part is not None and (lacking := sorted(wanted - _tensors(part))):
            raise OSError(
                f"{part} lacks {len(lacking)} of the tensors that {path.name} says are in it, such as "
                f"{lacking[0]}"
            )
    return True


def _read_index(path: Path) -> dict[str, set[str]]:
    """The weight files that an index names, each with the tensors in it."""
    files = defaultdict(set)
    try:
        for tensor, file in json.loads(path.read_text("utf-8"))["weight_map"].items():
            files[file].add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{path} is no index of weight files{_hint(path)} ({error!r})") from error
    return files


def _tensors(path: Path) -> set[str]:
    """Names of the tensors in a weight file, whose size must be what its header says."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} cannot be read as safetensors{_hint(path)} ({error})") from error


def _hint(path: Path) -> str:
    if path.is_file() and is_pointer(path):
        return ": it is a git-lfs pointer, and `git lfs pull` fetches what it stands for"
    return (
        f": it may be torn, with {path.stat().st_size} bytes; fetch it again"
        if path.is_file()
        else ": it is no file"
    )
