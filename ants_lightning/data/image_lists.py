"""`ImageList`: images named by list files or folders under one root, checked before anything runs."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image
from torch.utils.data import Dataset

from ants_lightning.clip.word_files import read_text
from ants_lightning.data.image_files import find_images, is_file
from ants_lightning.data.reading import open_image

logger = logging.getLogger(__name__)

# Of the root, in OpenOOD's layout; "": the root itself
IMAGE_FOLDERS = ("images_largescale", "images_classic", "")
ARCHIVE_NAMES = {"Textures": "dtd"}  # folders that keep the name of their archive
SHOWN = 3  # names of each kind in an error


class ImageList(Dataset):
    """Images by path, as `(RGB PIL image, label)`.

    An `ImageError` names the path of one that cannot be read.

    Args:
        paths: of the images.
        labels: one a path.
        classes: class names, for `OODDataModule`.
    """

    def __init__(
        self, paths: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None = None
    ) -> None:
        if len(paths) != len(labels):
            raise ValueError(f"{len(paths)} paths with {len(labels)} labels")
        self.paths, self.labels = list(paths), list(labels)
        self.classes = None if classes is None else list(classes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""
        return open_image(self.paths[index]), self.labels[index]


def leaves_root(name: str) -> bool:
    """Whether a path leaves its root: it is absolute, has a drive or climbs with `..`.

    Links that the user made are not looked at.
    """
    absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    return absolute or ".." in re.split(r"[/\\]", name)


def read_list(path: Path, num_classes: int | None) -> tuple[list[str], list[int], list[str]]:
    """Relative paths and labels of a file of lines `path label`, and what is wrong with its other lines.

    With `num_classes` labels must be in 0…C-1 (ID); without, any whole number will do (OOD: they are not
    used). The encoding is that of `clip.word_files.read_text`. Of a file that cannot be read this is the only
    thing that is wrong.
    """
    names: list[str] = []
    labels: list[int] = []
    try:
        lines = re.split(r"\r\n|\r|\n", read_text(path, "list"))
    except ValueError as error:
        return names, labels, [_unreadable(error)]
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(maxsplit=1)
        if not parts:
            continue
        name, label = parts[0].strip(), parts[-1]
        if len(parts) == 1 or not re.fullmatch(r"[+-]?[0-9]{1,18}", label):
            wrong.append(f"line {number} has no label: {line.strip()!r}")
        elif leaves_root(name):
            wrong.append(f"line {number} leaves the root: {line.strip()!r}")
        elif num_classes is not None and not 0 <= int(label) < num_classes:
            wrong.append(f"line {number} has a label that is not in 0…{num_classes - 1}: {line.strip()!r}")
        else:
            names.append(name)
            labels.append(int(label))
    return names, labels, wrong


def _files(folder: str) -> set[str]:
    """Names of the files in a folder; none where it is no folder, or cannot be looked into."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_file(entry)}
    except (OSError, ValueError):  # a name of NUL or one that is too long is no folder either
        return set()


def _unreadable(error: ValueError) -> str:
    """Why a list cannot be read, with the line where it is of another encoding."""
    cause = error.__cause__
    if not isinstance(cause, UnicodeDecodeError):
        return str(error)
    line = cause.object[: cause.start].count(b"\n") + 1
    return (
        f"line {line} is not {cause.encoding.upper()}: {cause.object[cause.start : cause.start + 20]!r}: "
        f"save the list as UTF-8"
    )


class ImageLists:
    """Reads lists and folders under a root, and gathers what is wrong with them for one error (`check`).

    Args:
        root: of all lists, folders and images; no path leaves it.
        classes: ID class names.
    """

    def __init__(self, root: str | Path, classes: Sequence[str]) -> None:
        self.root, self.classes = Path(root).expanduser(), classes
        self.problems: list[str] = []
        self.malformed = False
        self.n_read = 0
        self._entries: dict[str, set[str]] = {}

    def read(self, sources: Sequence[tuple[str, int | None]], is_id: bool) -> ImageList:
        """The images of list files (`….txt`) and folders as one data set.

        They are given relative to the root, with the number of images expected.

        Another number of images than expected is only logged. OOD images get the label -1.
        """
        paths: list[str] = []
        labels: list[int] = []
        for where, expected in sources:
            self.n_read += 1
            if leaves_root(where):
                self._wrong(f"{where}: leaves the root")
            elif where.endswith(".txt"):
                found, found_labels = self._read_list(where, len(self.classes) if is_id else None)
                paths += found
                labels += found_labels if is_id else [-1] * len(found)
                self._count(where, len(found), expected)
            elif is_id:
                self._wrong(f"{where}: an ID list must be a .txt file of lines 'path label'")
            else:
                found = self._read_folder(where)
                paths += found
                labels += [-1] * len(found)
                self._count(where, len(found), expected)
        return ImageList(paths, labels, self.classes if is_id else None)

    def check(self, advice: str) -> None:
        """Raise all problems found so far, if any.

        It is a ValueError with malformed lists among them, else a FileNotFoundError.
        """
        if self.problems:
            title = (
                f"{len(self.problems)} problems with the {self.n_read} lists and folders under "
                f"{str(self.root)!r}:"
            )
            kind = ValueError if self.malformed else FileNotFoundError
            raise kind("\n".join([title, *(f"- {problem}" for problem in self.problems), advice]))

    def _wrong(self, problem: str) -> None:
        self.problems.append(problem)
        self.malformed = True

    def _count(self, where: str, found: int, expected: int | None) -> None:
        if found and expected is not None and found != expected:
            logger.warning(
                "%s: %d images; the benchmark's has %d, so results are not comparable", where, found, expected
            )

    def _read_list(self, where: str, num_classes: int | None) -> tuple[list[str], list[int]]:
        path = self.root / where
        if not path.is_file():
            self.problems.append(f"{where}: no such list")
            return [], []
        names, labels, wrong = read_list(path, num_classes)
        if wrong:
            self._wrong(f"{where}: {len(wrong)} bad lines; {'; '.join(wrong[:SHOWN])}")
        elif not names:
            self._wrong(f"{where}: the list is empty")
        # Where OpenOOD keeps them; a stable sort leaves the rest in order
        classic = "cifar" in where or "texture" in where
        folders = (
            sorted(IMAGE_FOLDERS, key=lambda folder: folder != "images_classic")
            if classic
            else list(IMAGE_FOLDERS)
        )
        missing = {folder: self._missing(self.root / folder, names) for folder in folders}
        best = min(folders, key=lambda folder: len(missing[folder]))
        if missing[best]:
            shown = [str(PurePosixPath(best, name)) for name in missing[best][:SHOWN]]
            self.problems.append(
                f"{where}: {len(missing[best])} of {len(names)} images missing, first {', '.join(shown)} "
                f"(looked in {', '.join(folder or 'the root' for folder in folders)})"
            )
        return [str(self.root / best / name) for name in names], labels

    def _missing(self, base: Path, names: Sequence[str]) -> list[str]:
        """Names for which there is no file; links are followed.

        Each directory is scanned once, in place of one look per image.
        """
        by_folder: dict[str, set[str]] = defaultdict(set)
        for name in names:
            folder, _, file = name.rpartition("/")
            by_folder[folder].add(file)
        for folder in by_folder:
            place = str(base / folder)
            if place not in self._entries:
                self._entries[place] = _files(place)
        gone = {
            (folder, file)
            for folder, files in by_folder.items()
            for file in files - self._entries[str(base / folder)]
        }
        return (
            [name for name in names if (name.rpartition("/")[0], name.rpartition("/")[2]) in gone]
            if gone
            else []
        )

    def _read_folder(self, where: str) -> list[str]:
        names = [where, ARCHIVE_NAMES[where]] if where in ARCHIVE_NAMES else [where]
        tried = [self.root / base / name for base in ("", *IMAGE_FOLDERS[:-1]) for name in names]
        folder = next((folder for folder in tried if folder.is_dir()), None)
        if folder is None:
            self.problems.append(
                f"{' or '.join(names)}: no such folder (looked in the root, {', '.join(IMAGE_FOLDERS[:-1])})"
            )
            return []
        found = find_images(folder / "images" if (folder / "images").is_dir() else folder)
        if not found:
            self.problems.append(f"{where}: no images that can be taken in the folder {str(folder)!r}")
        return found
