"""The command `ants-lightning`: LightningCLI over `ANTS` and any data module, and the table."""

import io
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.logging import RichHandler

from ants_lightning.adapt.memory import NegativeMemory
from ants_lightning.adapt.settings import GROUPS
from ants_lightning.ants import ANTS
from ants_lightning.common.text import inert_record, show_error
from ants_lightning.data import OODDataModule
from ants_lightning.run import shipped, table
from ants_lightning.run.predictions import PredictionWriter
from ants_lightning.run.progress import StreamProgressBar
from ants_lightning.run.report import Report
from ants_lightning.run.saved_config import SavedConfig
from ants_lightning.run.snapshots import Snapshots

logger = logging.getLogger(__name__)

NOT_WRITTEN = 1  # exit code where the results could not be written to the folder of the run
NOT_WORKED = 3  # where a column of the table means nothing, after all results are written
RESUME_HELP = "go on where an interrupted test run was: auto, or the folder of a snapshot"
TABLE_HELP = (
    "`ants-lightning table runs/*` shows the results of one run or several; "
    "`ants-lightning table --help` tells how."
)
# Callbacks that are no entries of trainer.callbacks
OWN_KEYS: dict[type[L.Callback], str] = {
    NegativeMemory: "set it by `memory:` (--memory.mllm, --memory.mining.gamma and the like)",
    Report: "set it by `report:` (--report.table)",
}


class Trainer(L.Trainer):
    """Lightning's, which can also encode."""

    def encode(self, model: ANTS, datamodule: L.LightningDataModule, verbose: bool = True) -> list[str]:
        """Encode the data sets of the data module once, to its folder `features`.

        Args:
            model: whose image tower, and
            datamodule: whose data sets.
            verbose: tell what was encoded.

        Returns:
            The names of the sets that were not there yet.
        """
        if not isinstance(datamodule, OODDataModule):
            raise ValueError(f"only an OODDataModule can be encoded, not {type(datamodule).__name__}")
        trainer: Any = self
        callbacks = trainer.callbacks
        # Others want a stream
        trainer.callbacks = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
        try:
            encoded = datamodule.encode(trainer, model)
        finally:
            trainer.callbacks = callbacks
        if verbose:
            logger.info(
                "%s: encoded %s, had the others", datamodule.features, ", ".join(encoded) or "nothing"
            )
        return encoded


class ANTSCommand(LightningCLI):
    """`test`, `predict` and `encode`: nothing is trained here."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, less those that train, and `encode`."""
        skip = LightningCLI.subcommands()
        return {"test": skip["test"], "predict": skip["predict"], "encode": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Known to every subcommand, so that one configuration serves all."""
        parser.add_class_arguments(NegativeMemory, "memory", skip={*GROUPS}, sub_configs=True)
        for name, group in GROUPS.items():
            parser.add_class_arguments(group, f"memory.{name}")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(Snapshots, "snapshots")
        parser.add_lightning_class_args(Report, "report")
        parser.add_argument("--resume", type=str | None, default=None, help=RESUME_HELP)
        parser.link_arguments("resume", "snapshots.resume")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Lightning's, where a shipped configuration may be given by name."""
        words = sys.argv[1:] if args is None else args
        if not isinstance(words, Mapping):
            try:
                words = shipped.with_paths(words)
            except ValueError as error:
                parser.error(str(error))
        self.config = parser.parse_object(words) if isinstance(words, Mapping) else parser.parse_args(words)

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, with our own table instead of its, and predictions in a file instead of in memory."""
        super().setup_parser(*args, **kwargs)
        self._parser("test").set_defaults(verbose=False)
        self._parser("predict").set_defaults(return_predictions=False)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Lightning's, with the memory before all other callbacks, and our bar unless it is switched off."""
        others = self._get(self.config_init, "trainer.callbacks") or []
        others = others if isinstance(others, list) else [others]
        for callback in others:
            for kind, key in OWN_KEYS.items():
                if isinstance(callback, kind):
                    raise ValueError(f"trainer.callbacks has a {type(callback).__name__}: {key}")
        memory: NegativeMemory = self._get(self.config_init, "memory")
        if self._get(self.config_init, "trainer.enable_progress_bar") is not False:
            self.trainer_defaults["callbacks"] = [StreamProgressBar()]
        return super().instantiate_trainer(callbacks=[memory, *others], **kwargs)

    @property
    def failed(self) -> bool:
        """Whether the results could not be written to the folder of the run."""
        report: Report = self._get(self.config_init, "report")
        return report.failed


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, `sys.argv` unless `args` are given."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # no run ends because a terminal has no place for λ
    words = sys.argv[1:] if args is None else list(args)
    if words[:1] == ["table"]:
        table.main(words[1:])
        return
    handler = RichHandler(show_path=False)
    handler.addFilter(inert_record)  # what other libraries log, too
    sys.excepthook = show_error
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    command = ANTSCommand(
        ANTS,
        L.LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_callback=SavedConfig,
        trainer_class=Trainer,
        auto_configure_optimizers=False,
        parser_kwargs={"epilog": TABLE_HELP},
        args=None if args is None else list(args),
    )
    if command.failed:
        sys.exit(NOT_WRITTEN)
    if command.model.faults:
        sys.exit(NOT_WORKED)
