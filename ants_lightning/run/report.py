"""`Report`: `results.json` and the table of a test run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from safetensors.torch import save

from ants_lightning.ants import ANTS
from ants_lightning.common.run_folder import RunFolder, run_folder
from ants_lightning.common.settings import check_flags
from ants_lightning.common.text import one_line
from ants_lightning.data.batches import stream_loaders, stream_of
from ants_lightning.run.configuration import memory_of, settings_of
from ants_lightning.run.results import RESULTS, rescue_results, write_results
from ants_lightning.run.summary import summarise
from ants_lightning.run.table import build_table
from ants_lightning.run.terminal import Lenient

logger = logging.getLogger(__name__)

LABELS, ORDER = ("labels.txt", "labels.safetensors"), ("order.safetensors",)
NO_ADAPTATION = {
    **dict.fromkeys(("lambda", "lambda_paper", "lambda_prequential"), 0.5),
    "gamma": 0.0,
    "mllm_seconds": 0.0,
    **dict.fromkeys(
        ("n_negative_images", "n_ens", "n_vsnl", "n_dropped", "mllm_calls", "mllm_recalled", "mllm_failures"),
        0,
    ),
}


def build_results(
    streams: dict[str, dict[str, Any]],
    seed: int | None,
    benchmark: str | None = None,
    model: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `results.json` from `ANTS.results`, as fractions; of groups the means over streams."""
    packages = ("ants-lightning", "torch", "lightning", "open_clip_torch", "transformers", "bitsandbytes")
    groups: dict[str, Any] = {}
    for group in dict.fromkeys(stream["group"] for stream in streams.values()):
        members = [stream["scores"] for stream in streams.values() if stream["group"] == group]
        groups[group] = {
            score: {
                metric: sum(m[score][metric] for m in members) / len(members) for metric in members[0][score]
            }
            for score in members[0]
        }
    return {
        "versions": {name.replace("-", "_"): version(name) for name in packages},
        "seed": seed,
        "benchmark": benchmark,
        "model": model or {},
        "settings": settings or {},
        "streams": {name: {**NO_ADAPTATION, **stream} for name, stream in streams.items()},
        "groups": groups,
    }


class Report(L.Callback):
    """At the end of a test run, on rank 0: shows the table, and writes to `trainer.default_root_dir`.

    `results.json`; `labels.txt` and `labels.safetensors`, the negative labels that were used, to read, edit,
    share and use again (`ANTS(negatives={"bank": …})`); `order.safetensors`, which image of its sets each
    place of a stream held.

    Before the first batch: ValueError where `results.json` is there and no run wrote it, or another run is
    under way in the folder; OSError where the folder cannot be written. After that no file costs more than
    itself: a warning. `fast_dev_run` writes nothing.

    Args:
        table: show the table on the terminal, too.
    """

    def __init__(self, table: bool = True) -> None:
        check_flags(table=table)
        self.table = table
        self.results: dict[str, Any] = {}
        self._folder: RunFolder | None = None  # None: nothing is written
        self._spared = set[str]()  # what stays as it is

    @property
    def failed(self) -> bool:
        """Whether the results could not be written to the folder of the run."""
        return self._folder is not None and self._folder.incomplete

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Claim the folder."""
        self._folder, self._spared = None, set()
        if stage != "test" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._folder = run_folder(trainer)
        self._folder.claim(self, RESULTS)
        if not trainer.is_global_zero:
            return
        self._spared = {name for name in (*LABELS, *ORDER) if not self._folder.is_ours(name)}
        for name in sorted(self._spared):
            logger.warning(
                "%s stays as it is: no run wrote it, or it was edited since", self._folder.path / name
            )

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Write and show what was measured."""
        if not pl_module.results:
            return
        streams = {
            name: stream
            for name, loader in stream_loaders(trainer).items()
            if (stream := stream_of(loader)) is not None
        }
        self.results = {**self._build(trainer, pl_module, streams), **_limits(trainer)}
        told = self._write() if self._folder else ["a trial (fast_dev_run): nothing was written"]
        self._show(told)
        self._write_beside(LABELS, lambda: pl_module.spaces.neglabel.bank("labels", pl_module.encoder))
        self._write_beside(
            ORDER, lambda: {ORDER[0]: save({name: s.order for name, s in streams.items()})} if streams else {}
        )

    def _build(self, trainer: L.Trainer, model: ANTS, streams: Mapping[str, Any]) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        name = model.hparams["model"]
        return build_results(
            {
                stream: {**result, **({"stream": streams[stream].description()} if stream in streams else {})}
                for stream, result in model.results.items()
            },
            getattr(data, "seed", None),
            getattr(data, "benchmark", None),
            {"name": name, "pretrained": None if ":" in name else model.hparams["pretrained"]},
            settings_of(model, memory_of(trainer)),
        )

    def _show(self, told: Sequence[str]) -> None:
        """The table, where it is wanted, then these lines."""
        console = Console(file=Lenient())  # type: ignore[arg-type]
        for summary in summarise([self.results]) if self.table else ():
            console.print(build_table(summary, width=console.width))
        for line in told:
            console.print(one_line(line), soft_wrap=True, markup=False, highlight=False, emoji=False)

    def _write(self) -> list[str]:
        """Write the results, before anything is shown; what there is to tell of it."""
        assert self._folder is not None
        try:
            return write_results(self._folder, self.results)
        except OSError as error:
            self._folder.mark_incomplete()
            told = rescue_results(self._folder, self.results, error)
            logger.warning("%s", told)
            return [told]

    def _write_beside(self, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
        """Write files that tell of the run, or remove those of an earlier one where this has none."""
        if self._folder is None or self._spared & {*names}:
            return
        try:
            files = make()
            self._folder.remove(*(name for name in names if name not in files))
            for name, content in files.items():
                self._folder.write(name, content)
        except Exception as error:  # whatever keeps them from being made: the results are there
            logger.warning(
                "%s: not written: %s: %s", self._folder.path / names[0], type(error).__name__, error
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Free the folder."""
        self.teardown(trainer, pl_module, "test")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the folder."""
        if self._folder is not None:
            self._folder.release(self)


def _limits(trainer: L.Trainer) -> dict[str, Any]:
    """What tells that these are not the results of whole streams; nothing where they are."""
    limit = trainer.limit_test_batches
    whole = isinstance(limit, float) and limit == 1  # as an integer: one batch
    return {} if whole else {"limited": {"limit_test_batches": limit}}
