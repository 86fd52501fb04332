"""`Report`: `results.json` and the table at the end of a test run; `StreamProgressBar`: the adaptation as it goes."""

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from safetensors.torch import save_file

from ants_lightning.data.batches import stream_loaders, stream_of
from ants_lightning.data.features import tower_identity
from ants_lightning.memory import NegativeMemory
from ants_lightning.module import ANTS
from ants_lightning.snapshot_files import canonical, digest
from ants_lightning.summary import summarise
from ants_lightning.table import build_table

logger = logging.getLogger(__name__)

NO_ADAPTATION = {
    **dict.fromkeys(("lambda", "lambda_paper", "lambda_prequential"), 0.5), "gamma": 0.0, "mllm_seconds": 0.0,
    **dict.fromkeys(("n_negative_images", "n_ens", "n_vsnl", "n_dropped", "mllm_calls", "mllm_recalled", "mllm_failures"), 0),
}  # fmt: skip


def build_results(
    streams: dict[str, dict[str, Any]], seed: int | None, benchmark: str | None = None, model: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of `results.json` from `ANTS.results`, as fractions; groups are means over their streams."""
    packages = ("ants-lightning", "torch", "lightning", "open_clip_torch", "transformers", "bitsandbytes")
    groups: dict[str, Any] = {}
    for group in dict.fromkeys(stream["group"] for stream in streams.values()):
        members = [stream["scores"] for stream in streams.values() if stream["group"] == group]
        groups[group] = {
            score: {metric: sum(m[score][metric] for m in members) / len(members) for metric in members[0][score]}
            for score in members[0]
        }
    return {
        "versions": {name.replace("-", "_"): version(name) for name in packages},
        "seed": seed, "benchmark": benchmark, "model": model or {}, "settings": settings or {},
        "streams": {name: {**NO_ADAPTATION, **stream} for name, stream in streams.items()},
        "groups": groups,
    }  # fmt: skip


def settings_of(model: ANTS, memory: NegativeMemory | None) -> dict[str, Any]:
    """All plain settings of a run that has started, by part, and its MLLM; long things (names, words, weights) by a hash."""
    own = {**model.hparams, "class_names": model.class_names}
    own |= {name: getattr(model, name) for name in ("nouns", "adjectives") if own[name] != "wordnet"}
    start = model.start
    taken = [*model.neglabel.labels, *([start.ens.labels, start.vsnl.labels, start.weight] if start else [])]
    own |= {name: f"{own[name]}: {_told(taken)}" for name in ("label_bank", "spaces") if own[name]}
    towers = tower_identity(model.clip, model.preprocess, model.trainer)
    own["weights"] = f"sha256 {_hash([towers['image_tower'], model.encoder.fingerprint])}"
    own["precision"] = towers["precision"]
    parts: dict[str, Any] = {"model": own}
    if memory:
        parts |= {"memory": memory.settings, "mllm": _mllm_of(memory)}
    parts |= {name: baseline.settings for name, baseline in model.baselines.items()}
    return {part: {name: _plain(value) for name, value in of.items() if _is_plain(value)} for part, of in parts.items()}


def _mllm_of(memory: NegativeMemory) -> dict[str, Any]:
    mllm: Any = memory.guard.mllm
    if mllm is None:
        return {}
    try:
        identity = json.loads(json.dumps(mllm.identity() if hasattr(mllm, "identity") else {}, default=str))
    except Exception as error:  # an MLLM of the user's; the results are not lost with it
        logger.warning("what the answers depend on is not in the results: %s: %s", type(error).__name__, error)
        identity = {}
    return {"class": type(mllm).__name__, **identity}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | tuple | dict | None)


def _plain(value: Any) -> Any:
    return _told(value) if isinstance(value, list | tuple) else value


def _hash(values: Sequence[Any]) -> str:
    return digest(canonical(list(values)))[:8]


def _told(values: Sequence[Any]) -> str:
    """How many there are, and which: two lists of one length differ in the hash."""
    return f"{len(values)} (sha256 {_hash(values)})"


class Report(L.Callback):
    """At the end of a test run, on rank 0: shows the table, and writes to `trainer.default_root_dir`.

    `results.json`; `labels.txt` and `labels.safetensors`, the negative labels that were used, to read, edit, share and use again
    (`ANTS(label_bank=…)`); `order.safetensors`, which image of its sets each place of a stream held.
    """

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Write and show what was measured."""
        if not pl_module.results:
            return
        data, root = trainer.datamodule, Path(trainer.default_root_dir)  # type: ignore[attr-defined]
        root.mkdir(parents=True, exist_ok=True)
        name = pl_module.hparams["model"]
        sets = {name: stream for name, loader in stream_loaders(trainer).items() if (stream := stream_of(loader)) is not None}
        memory = next((c for c in trainer.callbacks if isinstance(c, NegativeMemory)), None)  # type: ignore[attr-defined]
        self.results = build_results(
            {stream: {**result, **({"stream": sets[stream].description()} if stream in sets else {})}
             for stream, result in pl_module.results.items()},
            getattr(data, "seed", None), getattr(data, "benchmark", None),
            {"name": name, "pretrained": None if ":" in name else pl_module.hparams["pretrained"]}, settings_of(pl_module, memory),
        )  # fmt: skip
        if sets:
            save_file({name: dataset.order for name, dataset in sets.items()}, root / "order.safetensors")
        if len(pl_module.neglabel):
            pl_module.neglabel.save(root, "labels", pl_module.encoder)
        path = root / "results.json"
        path.write_text(json.dumps(self.results, indent=2) + "\n", encoding="utf-8")
        console = Console()
        for summary in summarise([self.results]):
            console.print(build_table(summary, width=console.width))
        console.print(f"results: {path}", soft_wrap=True, markup=False)


class StreamProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the stream's name, λ, γ and the sizes of the spaces."""

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ANTS, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the adaptation after each batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.progress is None or self.test_progress_bar_id is None:
            return
        name = list(pl_module.groups)[dataloader_idx]
        now = pl_module.adaptation.get(name)
        state = f" λ {now['lambda']:.2f} γ {now['gamma']:.2f} ENS {now['n_ens']} VSNL {now['n_vsnl']}" if now else ""
        self.progress.update(self.test_progress_bar_id, description=name + state)
