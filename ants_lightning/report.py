"""`Report`: `results.json` and the table at the end of a test run; `StreamProgressBar`: the adaptation as it goes."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from ants_lightning.module import ANTS

NO_ADAPTATION = {
    **dict.fromkeys(("lambda", "lambda_paper", "lambda_prequential"), 0.5), "gamma": 0.0, "mllm_seconds": 0.0,
    **dict.fromkeys(("n_negative_images", "n_ens", "n_vsnl", "n_dropped", "mllm_calls", "mllm_recalled", "mllm_failures"), 0),
}  # fmt: skip


def build_results(streams: dict[str, dict[str, Any]], seed: int | None) -> dict[str, Any]:
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
        "seed": seed,
        "streams": {name: {**NO_ADAPTATION, **stream} for name, stream in streams.items()},
        "groups": groups,
    }


def build_table(results: dict[str, Any]) -> Table:
    """Scores × streams: AUROC and both FPR95, in percent, the best of each column in bold; below, the adaptation."""
    streams = results["streams"]
    notes = [
        f"{name}: ID accuracy {100 * s['id_accuracy']:.1f} %, λ {s['lambda']:.2f} (paper {s['lambda_paper']:.2f}, "
        f"prequential {s['lambda_prequential']:.2f}), γ {s['gamma']:.3f}, {s['n_negative_images']} negative images, "
        f"{s['n_ens']} ENS, {s['n_vsnl']} VSNL, {s['n_dropped']} dropped; MLLM: {s['mllm_calls']} asked, "
        f"{s['mllm_recalled']} recalled, {s['mllm_failures']} failed, {s['mllm_seconds']:.1f} s"
        for name, s in streams.items()
    ]
    table = Table(title="AUROC / FPR95 / FPR95 of OpenOOD, %", caption="\n".join(notes), caption_justify="left")
    table.add_column("score")
    for name, stream in streams.items():
        table.add_column(f"{name} ({stream['group']})", justify="right", no_wrap=True)
    for score in next(iter(streams.values()))["scores"]:
        table.add_row(score, *(_cell(stream["scores"], score) for stream in streams.values()))
    return table


def _cell(scores: dict[str, dict[str, float]], score: str) -> str:
    shown = []
    for metric, best in (("auroc", max), ("fpr95", min), ("fpr95_openood", min)):
        bold = scores[score][metric] == best(others[metric] for others in scores.values())
        shown.append(f"{'[bold]' * bold}{100 * scores[score][metric]:.1f}{'[/bold]' * bold}")
    return " / ".join(shown)


class Report(L.Callback):
    """Writes `results.json` to `trainer.default_root_dir` and prints the table, on rank 0, at the end of a test run."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: ANTS) -> None:  # type: ignore[override]
        """Write and print what was measured."""
        if not pl_module.results:
            return
        self.results = build_results(pl_module.results, getattr(trainer.datamodule, "seed", None))  # type: ignore[attr-defined]
        path = Path(trainer.default_root_dir) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.results, indent=2) + "\n", encoding="utf-8")
        console = Console()
        console.print(build_table(self.results))
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
