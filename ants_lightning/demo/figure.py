"""The README's picture from a demo run: `python -m ants_lightning.demo.figure --out docs/demo.png`.

Above, AUROC of every score on every stream; below, the images of each stream that the MLLM was shown first,
with its words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from PIL.Image import Image

from ants_lightning import ANTS, NegativeMemory, Report
from ants_lightning.demo import CLIP, LLAVA, SETTINGS, DemoDataModule
from ants_lightning.mllm import TransformersMLLM


class Recorder(TransformersMLLM):
    """The LLaVA, remembering what it was shown and said in each stream."""

    def __init__(self) -> None:
        super().__init__(LLAVA, batch_size=32, max_new_tokens=16)
        self.seen: list[list[tuple[Image, str | None]]] = []

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """Describe and remember."""
        said = super().describe(images, avoid)
        self.seen[-1] += zip(images, said, strict=True)
        return said


class NewStream(L.Callback):
    """Tells a recorder that a stream begins."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_test_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A new list for a new stream."""
        if batch_idx == 0:
            self.recorder.seen.append([])


def main() -> None:
    """Run the demo and draw."""
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(prog="python -m ants_lightning.demo.figure", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mllm, report = Recorder(), Report()
    data = DemoDataModule(seed=args.seed)
    callbacks = [NewStream(mllm), NegativeMemory(mllm, **SETTINGS["memory"], record=None), report]
    trainer = L.Trainer(
        callbacks=callbacks, logger=False, default_root_dir="runs/figure", enable_model_summary=False
    )
    trainer.test(ANTS(CLIP, **SETTINGS["model"]), data, verbose=False)
    streams = report.results["streams"]
    figure = plt.figure(figsize=(10, 6.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    top, bottom = parts
    axis = top.subplots()
    names = list(next(iter(streams.values()))["scores"])
    for i, score in enumerate(names):
        heights = [100 * stream["scores"][score]["auroc"] for stream in streams.values()]
        bars = axis.bar([k + (i - 2) * 0.16 for k in range(len(streams))], heights, 0.15, label=score)
        axis.bar_label(bars, fmt="%.1f", fontsize=7)
    axis.set_xticks(range(len(streams)), [f"{name} ({stream['group']})" for name, stream in streams.items()])
    axis.set(ylim=(50, 115), ylabel="AUROC, %")
    axis.legend(ncols=5, fontsize=8, loc="upper center")
    axes = bottom.subplots(3, 6)
    for row, seen in zip(axes, mllm.seen, strict=True):
        for axis, (image, text) in zip(row, seen[:6], strict=True):
            axis.imshow(image)
            axis.set_title(text, fontsize=6.5)
            axis.set_axis_off()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
