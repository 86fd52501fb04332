"""`KeptAnswers`: what the memory keeps in the folder of the run: the answers of the MLLM and the spaces."""

import logging
from collections.abc import Iterable
from pathlib import Path

import lightning as L

from ants_lightning.common.run_folder import RunFolder, file_name, run_folder
from ants_lightning.spaces.folder import FILES

logger = logging.getLogger(__name__)


class KeptAnswers:
    """The record of answers and the spaces of each stream. What cannot be written is lost with a warning."""

    def __init__(self) -> None:
        self._folder: RunFolder | None = None  # None: nothing is written
        self._spared = set[str]()  # streams whose folder holds spaces of somebody else

    def claim(self, trainer: L.Trainer) -> None:
        """Make the folder this run's; on all ranks at once."""
        folder = run_folder(trainer)
        try:
            folder.claim(self)
        except OSError as error:
            logger.warning("answers and spaces are not kept: %s", error)
        else:
            self._folder = folder

    def release(self) -> None:
        """Free the folder."""
        if self._folder is not None:
            self._folder.release(self)

    def forget(self) -> None:
        """Write nothing until the next claim."""
        self._folder = None

    def record(self, name: str | None) -> Path | None:
        """The file of the answers; None where there is none."""
        return self._folder.path / name if name and self._folder else None

    def check(self, streams: Iterable[str]) -> None:
        """Before the first batch, warn of spaces that people put there or edited: they stay as they are."""
        self._spared = set()
        for stream in streams if self._folder else ():
            assert self._folder is not None
            try:
                self._folder.check_folder(_spaces_of(stream), FILES)
            except OSError as error:
                self._spared.add(stream)
                logger.warning("the spaces of stream %r will not be kept: %s", stream, error)

    def keep(self, stream: str, files: dict[str, bytes]) -> None:
        """Write the spaces that a stream ended with.

        Args:
            stream: its name.
            files: contents by name (`spaces.folder.files_of`).
        """
        if self._folder is None or stream in self._spared:
            return
        try:
            self._folder.write_folder(_spaces_of(stream), files, FILES)
        except (OSError, ValueError) as error:  # a full disk, or files of others there
            logger.warning("the spaces of stream %r could not be kept: %s", stream, error)


def _spaces_of(stream: str) -> str:
    """The folder of a stream's spaces, in that of the run."""
    return f"spaces/{file_name(stream)}"
