"""Finding the images of a folder: which files are taken, which are not, and why."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile

from ants_lightning.common.text import one_line

logger = logging.getLogger(__name__)

# Pillow names these formats, but opens them by another program or not at all.
_NO_IMAGES = {"EPS", "IPTC", "MPEG", "PDF"}
_BY_ANOTHER = {"MPO": "JPEG"}  # opened by the plug-in of another format


def image_extensions() -> tuple[str, ...]:
    """Extensions of files that the installed Pillow can read, like `.png`; those of plug-ins too."""
    found = []
    for suffix, kind in Image.registered_extensions().items():
        factory = Image.OPEN.get(_BY_ANOTHER.get(kind, kind), (None,))[0]
        is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        if factory is not None and not is_stub and kind not in _NO_IMAGES:
            found.append(suffix)
    return tuple(found)


def is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry of a folder is a regular file, or a link to one; nothing is opened."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def find_images(folder: Path | str) -> list[str]:
    """Paths of the images in a folder and its subfolders, sorted.

    Taken is what is a regular file, or a link to one, with the name of a format that Pillow here can read
    (`image_extensions`). Linked folders are followed; each real folder is gone through once, under its own
    name where it has one here, and a link to a folder that holds this one is not. Hidden files and folders
    (`.name`) and macOS's `__MACOSX` are left out. One warning tells what was left out, by reason, with an
    example.
    """
    found, left_out = list[str](), dict[str, list[str]]()
    for path, why in _walk(str(folder), image_extensions()):
        if why:
            left_out.setdefault(why, []).append(path)
        else:
            found.append(path)
    if left_out:
        told = "; ".join(
            f"{len(paths)} {why} ({one_line(min(paths))})" for why, paths in sorted(left_out.items())
        )
        logger.warning("%d images in the folder %s; left out: %s", len(found), one_line(str(folder)), told)
    return sorted(found)


def _walk(root: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Paths of files, and why each is not taken; "" for images.

    Links to folders come last, in the order of their paths.
    """
    above = {_identity(str(parent)) for parent in Path(root).resolve().parents}
    seen, folders, links = set[tuple[int, int]](), deque([root]), list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        folder = folders.popleft() if folders else links.pop()
        try:
            identity = _identity(folder)
            if identity in above or identity in seen:
                yield (
                    folder,
                    "links to a folder that "
                    + ("holds this one" if identity in above else "is taken already"),
                )
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                here = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder, "folders that cannot be read"
            continue
        for entry in here:
            kind = _kind(entry, suffixes)
            if kind == "folder":
                folders.append(entry.path)
            elif kind == "link":
                links.append(entry.path)
            else:
                yield entry.path, kind


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _kind(entry: "os.DirEntry[str]", suffixes: tuple[str, ...]) -> str:
    """`folder`, `link` (to a folder), "" for an image, else why it is not taken."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return "hidden"
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
        if entry.is_file():
            return "" if entry.name.lower().endswith(suffixes) else "of no image format that can be read here"
        return (
            "links to nothing"
            if entry.is_symlink() and not os.path.exists(entry.path)
            else "no regular files"
        )
    except OSError:
        return "links to nothing"
