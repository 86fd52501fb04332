"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of `path` once it is whole.

    Others see all of it or the file before. The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that others see all of it or the file before; its folder is made where missing."""
    with replacing(path) as part:
        part.write_bytes(content)


def swap_folder(path: Path, files: Mapping[str, bytes], own: Collection[str]) -> None:
    """Replace some files of a folder all at once, or leave it as it is.

    A new folder is written beside it and takes its place; all other files move to the new one.

    Args:
        path: the folder, made where missing; NotADirectoryError for a file.
        files: the new files, content by name.
        own: names of the files to replace; one that has no new content is removed.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name[:80]}.{uuid4().hex[:8]}.{kind}") for kind in ("new", "old"))
    try:
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        raise
    for left in old.iterdir() if old.exists() else ():
        if left.name in own and not left.is_dir():
            left.unlink()
        else:
            left.rename(path / left.name)
    if old.exists():
        old.rmdir()
