"""The configuration of a run of the command, kept beside its results."""

import logging

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from ants_lightning.common.run_folder import RunFolder, run_folder

logger = logging.getLogger(__name__)


class SavedConfig(SaveConfigCallback):
    """Writes the configuration to `config.yaml` in the folder of the run.

    It goes to `config.run.yaml` where the first is somebody else's.

    Where it cannot be written there is a warning. `fast_dev_run` writes nothing.
    """

    _folder: RunFolder | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Claim the folder and write to it."""
        self._folder = None
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = run_folder(trainer)
        folder.claim(self)
        self._folder = folder
        if trainer.is_global_zero:
            try:
                self._write(folder)
            except Exception as error:  # a full disk, or a value that has no place in YAML
                logger.warning(
                    "the configuration was not written to %s: %s: %s",
                    folder.path,
                    type(error).__name__,
                    error,
                )

    def _write(self, folder: RunFolder) -> None:
        content = self.parser.dump(self.config, skip_none=False).encode("utf-8", "backslashreplace")
        others = "config.run.yaml"
        if folder.is_ours(self.config_filename):
            folder.write(self.config_filename, content)
        else:
            folder.write(others, content)
            logger.warning(
                "%s is not of a run, or was edited, and stays: see %s",
                folder.path / self.config_filename,
                others,
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the folder."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the folder."""
        if self._folder is not None:
            self._folder.release(self)
