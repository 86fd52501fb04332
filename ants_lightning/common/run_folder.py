"""`RunFolder`: the folder that one run writes to; files of others in it are never replaced or removed."""

import json
import os
import re
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import lightning as L
from filelock import FileLock, Timeout

from ants_lightning.common.files import swap_folder, write_atomically
from ants_lightning.common.hashes import digest, file_hash
from ants_lightning.distributed import gather_json

MARKER = ".ants_lightning.json"
LOCK = ".ants_lightning.lock"
_FORMAT = 1
_GROWING = "growing"  # in place of the hash of a file that is not whole yet
_LONGEST = 120  # characters of a file name, so that there is room for suffixes
_PORTS = (f"{kind}{i}" for kind in ("COM", "LPT") for i in range(10))
_DEVICES = {"CON", "PRN", "AUX", "NUL", *_PORTS}  # names that Windows gives to no file


def file_name(name: str) -> str:
    """A file name for any text: at most 120 ASCII characters, different for different texts.

    The text is quoted as in a URL; if that is too long or no file name, it is shortened and ends with a hash.

    >>> file_name("near set/2"), file_name("..")
    ('near%20set%2F2', '__=5ec1f7e700f37c3d')
    """
    quoted = quote(name, safe="", errors="surrogatepass")
    is_device = quoted.split(".")[0].upper() in _DEVICES
    if quoted and len(quoted) <= _LONGEST and not is_device and not quoted.endswith("."):
        return quoted
    sha256 = digest(name.encode("utf-8", "surrogatepass"))
    mark = f"={sha256[:16]}"  # no quoted text holds a "="
    head = re.sub("%[^%]?$", "", quoted[: _LONGEST - len(mark)])
    return head.replace(".", "_") + mark


class RunFolder:
    """The folder of one run: locked while the run goes, with a list of the files that runs wrote there.

    The list, `.ants_lightning.json`, has the SHA-256 of each file as it was written. A file that is not in
    the list, or was edited since, belongs to somebody else: it stays as it is, and an attempt to write it is
    a FileExistsError. Only the first rank reads and writes; the other ranks take part in `claim` alone. Names
    are relative to the folder.

    Args:
        path: made by the first claim.
    """

    def __init__(self, path: Path | str) -> None:
        if "://" in str(path):
            raise ValueError(f"a run writes to a local folder, not to {str(path)!r}")
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.is_first_rank = True
        self.incomplete = False  # the results of this run could not be written here
        self._owners: list[Any] = []
        self._lock: FileLock | None = None
        self._files = dict[str, list[str]]()  # hashes by name, the newest first
        self._made = list[str]()  # folders
        self._growing = set[str]()
        self._run: dict[str, Any] | None = None  # the process that holds the folder

    def claim(self, who: Any, *needed: str) -> None:
        """Take the folder for this run, before its first batch.

        All ranks call it at once, and all raise what the first rank meets: an OSError, with folder and
        reason, where the folder cannot be written; a ValueError where another run is under way in it, or a
        needed file is not ours.

        Args:
            who: the object that wants to write there; it calls `release` at the end.
            needed: names of files that it must be able to write.
        """
        kind = told = ""
        if self.is_first_rank:
            try:
                self._take(who)
                if theirs := [name for name in needed if not self.is_ours(name)]:
                    raise ValueError(
                        f"{self.path} holds {', '.join(theirs)}, which no run wrote, or which was edited "
                        "since, and which this run would replace: move it away, or give the run a folder of "
                        "its own (default_root_dir of the trainer)"
                    )
            except OSError as error:
                kind, told = "OSError", f"the folder of the run, {self.path}, cannot be written: {error}"
            except ValueError as error:
                kind, told = "ValueError", str(error)
        kind, told = gather_json([kind, told])[0]
        if kind:
            self.release(who)
            raise OSError(told) if kind == "OSError" else ValueError(told)

    def _take(self, who: Any) -> None:
        if self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise ValueError(
                    f"another run{_holder(self.path)} is under way in {self.path}: give this one a folder of "
                    "its own (default_root_dir of the trainer)"
                ) from None
            self._lock = lock
            try:
                content = _read_marker(self.path)
                self._files, self._made = content.get("files", {}), content.get("folders", [])
                self._growing, self.incomplete = set(), False
                self._run = {"pid": os.getpid(), "host": socket.gethostname()}
                self._save()
            except BaseException:
                self._lock = None
                lock.release()
                raise
        self._owners = [*(owner for owner in self._owners if owner is not who), who]

    def release(self, who: Any) -> None:
        """End a claim of `who`, if there is one; the folder is free when all claims have ended."""
        self._owners = [owner for owner in self._owners if owner is not who]
        if self._owners or self._lock is None:
            return
        try:
            self._run = None
            with suppress(OSError):  # a full disk: the list stays good, it only still names this process
                self._save()
        finally:
            self._lock.release()
            self._lock = None

    def _save(self) -> None:
        """Write the list."""
        if self._lock is None:
            raise RuntimeError(f"{self.path} is not claimed")
        content = {"format": _FORMAT, "run": self._run, "folders": self._made, "files": self._files}
        write_atomically(self.path / MARKER, (json.dumps(content, indent=1) + "\n").encode())

    def is_ours(self, name: str) -> bool:
        """Whether a file may be written: it does not exist, or it is as a run wrote it."""
        path = self.path / name
        if self.is_free(name):
            return True
        known = self._files.get(name, [])
        if not known or not path.is_file() or path.is_symlink():
            return False
        return _GROWING in known or file_hash(path) in known

    def is_free(self, name: str) -> bool:
        """Whether nothing is there under this name."""
        return not os.path.lexists(self.path / name)

    def _own(self, hashes: Mapping[str, str]) -> None:
        """Add files, with their hashes to come, to the list.

        That is done before they are written, so that a killed run leaves no file that is not in the list.
        """
        if theirs := [str(self.path / name) for name in hashes if not self.is_ours(name)]:
            raise FileExistsError(
                f"{', '.join(theirs)}: no run wrote it, or it was edited since; it is left alone"
            )
        for name, new in hashes.items():
            self._files[name] = [new] if self.is_free(name) else [new, file_hash(self.path / name)]
        self._save()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole or not at all. OSError where that fails, or it is not ours."""
        self._own({name: digest(content)})
        write_atomically(self.path / name, content)

    def check_folder(self, name: str, own: Collection[str]) -> None:
        """Raise a FileExistsError where one of the files `own` of a folder is not ours."""
        for file in own:
            if not self.is_ours(f"{name}/{file}"):
                raise FileExistsError(
                    f"{self.path / name / file}: no run wrote it, or it was edited since; it is left alone"
                )

    def write_folder(self, name: str, files: Mapping[str, bytes], own: Collection[str]) -> None:
        """Replace the files `own` of a folder by `files` (`swap_folder`). OSError as in `write`."""
        self.check_folder(name, own)
        hashes = {file: digest(content) for file, content in files.items()}
        self._own({f"{name}/{file}": sha256 for file, sha256 in hashes.items()})
        swap_folder(self.path / name, files, own)

    def begin(self, *names: str) -> None:
        """Note files that grow batch by batch, until `put` or `finish` is called. OSError as in `write`."""
        if twice := self._growing & set(names):
            raise FileExistsError(f"{', '.join(sorted(twice))} in {self.path}: written by two at once")
        self._own(dict.fromkeys(names, _GROWING))
        self._growing |= set(names)

    def finish(self, *names: str) -> None:
        """Note that files of `begin` are whole now, or were removed."""
        self._growing -= set(names)
        for name in names:
            if (self.path / name).is_file():
                self._files[name] = [file_hash(self.path / name)]
            else:
                self._files.pop(name, None)
        self._save()

    def put(self, new: Path, name: str) -> None:
        """Move a finished file, from the same disk, to its name in the folder. OSError as in `write`."""
        self._own({name: file_hash(new)})
        new.replace(self.path / name)

    def mark_incomplete(self) -> None:
        """Note that the results of this run could not be written here."""
        self.incomplete = True

    def remove(self, *names: str) -> None:
        """Remove those of the files that are ours."""
        for name in names:
            if self.is_ours(name):
                (self.path / name).unlink(missing_ok=True)
                self._files.pop(name, None)
        self._save()

    def move(self, name: str, to: str) -> None:
        """Give a file of ours a name that is free."""
        self._files[to] = self._files[name]
        self._save()
        (self.path / name).rename(self.path / to)

    def make_folder(self, name: str) -> Path:
        """The path of a subfolder, which is made where missing."""
        path = self.path / name
        if not path.is_dir():
            path.mkdir()
            self._made = [*self._made, name]
            self._save()
        return path

    def remove_folder(self, name: str) -> None:
        """Remove a subfolder that this or an earlier run made with `make_folder`, if it is empty."""
        if name in self._made:
            with suppress(OSError):  # it is not empty: somebody keeps files there
                (self.path / name).rmdir()
                self._made = [folder for folder in self._made if folder != name]
                self._save()


_folders = WeakKeyDictionary[L.Trainer, dict[Path, RunFolder]]()


def run_folder(trainer: L.Trainer, path: Path | None = None) -> RunFolder:
    """The folder that the runs of a trainer write to: `path`, or `trainer.default_root_dir`.

    All callers with the same trainer and path get the same object.
    """
    folder = RunFolder(path or trainer.default_root_dir)
    folder = _folders.setdefault(trainer, {}).setdefault(folder.path, folder)
    folder.is_first_rank = trainer.is_global_zero
    return folder


def _read_marker(folder: Path) -> dict[str, Any]:
    """The list of a folder, {} where there is none; ValueError for another file of its name."""
    path = folder / MARKER
    try:
        content = json.loads(path.read_bytes())
        known = content["format"] == _FORMAT and all(
            isinstance(hashes, list) for hashes in content["files"].values()
        )
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{path} is not the list of what this version's runs wrote there: move it away")
    return content


def _holder(folder: Path) -> str:
    """Which process holds a folder, in brackets; "" where its list does not tell."""
    try:
        run = _read_marker(folder).get("run") or {}
    except (OSError, ValueError):
        return ""
    return f" (process {run['pid']} on {run['host']})" if {"pid", "host"} <= set(run) else ""
