"""The command `ants-lightning`: LightningCLI over `ANTS` and any data module."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningCLI
from rich.logging import RichHandler

from ants_lightning.module import ANTS
from ants_lightning.report import Report, StreamProgressBar


class ANTSCommand(LightningCLI):
    """`test` and `predict`: nothing is trained here."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, less those that train."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in ("test", "predict")}

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Lightning's, with our progress bar unless it is switched off."""
        if self._get(self.config_init, "trainer.enable_progress_bar") is not False:
            self.trainer_defaults["callbacks"].append(StreamProgressBar())
        return super().instantiate_trainer(**kwargs)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, `sys.argv` unless `args` are given."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    ANTSCommand(
        ANTS, L.LightningDataModule, subclass_mode_data=True, seed_everything_default=0, save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [Report()]}, args=None if args is None else list(args),
    )  # fmt: skip
