"""What the MLLM's eyes are worth: `python -m ants_lightning.demo.controls --seeds 101 102 103`.

Runs the demo with its LLaVA; with stand-ins for it: sentences of random other images, random class names
instead of similar ones, and perfect captions; without label hygiene; and with images beside the class names
of eq. 11 (VSNL with eyes). Prints mean AUROC / FPR95 (%) over the seeds as Markdown, and both estimates of λ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL.Image import Image

from ants_lightning import ANTS, NegativeMemory, Report
from ants_lightning.common.groups import changed
from ants_lightning.demo import CLIP, LLAVA, SETTINGS, DemoDataModule
from ants_lightning.demo.world import OBJECTS, THINGS, caption, look_alikes
from ants_lightning.mllm import MLLM, SIMILAR_PROMPT, TransformersMLLM


class PerfectCaptions:
    """Says what was drawn: the upper bound of `describe`; similar classes are the true ones."""

    replays = True  # it knows the drawings of its data alone

    def __init__(self, data: DemoDataModule) -> None:
        sets = [data.id_set, *data.ood_sets.values()]
        self.drawn = {_key(s[i][0]): (s.specs, i) for s in sets for i in range(len(s))}  # type: ignore[attr-defined,arg-type]

    def setup(self, device: torch.device) -> None:
        """Nothing to load."""

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """The full sentence that belongs to the drawing."""
        return [caption(*self.drawn[_key(image)], name) for image, name in zip(images, avoid, strict=True)]

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """What truly looks like the class; with an image, what it truly shows, and what looks like that."""
        return [
            look_alikes(name, count) if image is None else self._alike(image, count)
            for name, image in zip(names, images or [None] * len(names), strict=True)
        ]

    def _alike(self, image: Image, count: int) -> list[str]:
        specs, i = self.drawn[_key(image)]
        shown = THINGS[int(specs.thing[i])]
        return [shown, *(look_alikes(shown, count - 1) if shown in OBJECTS else [])]


class Blind:
    """The real LLaVA as a control: it describes other images, or names any classes as similar ones."""

    replays = True  # a question before the stream would draw other images

    def __init__(self, mllm: MLLM, data: DemoDataModule, sentences: bool, names: bool) -> None:
        self.mllm, self.sentences, self.names = mllm, sentences, names
        sets = [data.id_set, *data.ood_sets.values()]
        self.images: list[Image] = [s[i][0] for s in sets for i in range(len(s))]  # type: ignore[arg-type]
        self.rng = random.Random(0)

    def setup(self, device: torch.device) -> None:
        """Load the LLaVA."""
        self.mllm.setup(device)

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str | None]:
        """Sentences of random images of all streams and ID classes."""
        return self.mllm.describe(
            self.rng.sample(self.images, len(images)) if self.sentences else images, avoid
        )

    def similar_classes(
        self, names: Sequence[str], count: int = 5, images: Sequence[Image | None] | None = None
    ) -> list[list[str] | None]:
        """Random names of objects, textures and scenes."""
        if self.names:
            return [self.rng.sample(THINGS, count) for _ in names]
        return self.mllm.similar_classes(names, count, images)


EYES = {"vsnl": {"show_images": True}}
CONTROLS: dict[str, dict[str, Any]] = {  # and the settings of `NegativeMemory`
    "LLaVA": {},
    "sentences of random images": {},
    "random class names": {},
    "perfect captions": {},
    "LLaVA, no hygiene": {"hygiene": {"names": False}},
    "LLaVA, VSNL with eyes": EYES,
    "perfect captions, VSNL with eyes": EYES,
}


def _key(image: Image) -> bytes:
    return np.asarray(image).tobytes()


def run(seed: int, control: str, **settings: Any) -> dict[str, Any]:
    """One demo run, as `results.json` tells it."""
    data = DemoDataModule(seed=seed)
    # It was taught that one question only, and without images.
    llava = TransformersMLLM(LLAVA, batch_size=32, max_new_tokens=16, similar_image_prompt=SIMILAR_PROMPT)
    choices: dict[str, Callable[[], MLLM]] = {
        "LLaVA": lambda: llava,
        "sentences of random images": lambda: Blind(llava, data, sentences=True, names=False),
        "random class names": lambda: Blind(llava, data, sentences=False, names=True),
        "perfect captions": lambda: PerfectCaptions(data),
    }
    model = ANTS(CLIP, **SETTINGS["model"])
    report = Report()
    mllm = choices[control.split(", ")[0]]()
    memory = NegativeMemory(mllm, **changed(changed(SETTINGS["memory"], CONTROLS[control]), settings))
    trainer = L.Trainer(
        callbacks=[memory, report],
        logger=False,
        enable_progress_bar=False,
        accelerator="cpu",
        default_root_dir="runs/controls",
        enable_model_summary=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.test(model, data, verbose=False)
    return report.results


def _above(scores: dict[str, dict[str, float]]) -> bool:
    return scores["ants"]["auroc"] > max(scores["mcm"]["auroc"], scores["neglabel"]["auroc"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m ants_lightning.demo.controls", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--controls", nargs="+", default=list(CONTROLS))
    args = parser.parse_args()
    out = sys.stdout.write
    for control in args.controls:
        runs = [run(seed, control) for seed in args.seeds]
        streams = list(runs[0]["streams"])
        out(
            f"\n{control}, seeds {args.seeds}\n\n| score | {' | '.join(streams)} |\n|---|"
            f"{'---|' * len(streams)}\n"
        )
        for score in runs[0]["streams"][streams[0]]["scores"]:
            cells = []
            for stream in streams:
                found = [r["streams"][stream]["scores"][score] for r in runs]
                cells.append(
                    " / ".join(
                        f"{100 * statistics.mean(f[m] for f in found):.1f}" for m in ("auroc", "fpr95")
                    )
                )
            out(f"| {score} | {' | '.join(cells)} |\n")
        wins = [sum(_above(r["streams"][stream]["scores"]) for r in runs) for stream in streams]
        out(
            f"| seeds with ants above mcm and neglabel | {' | '.join(f'{n} of {len(runs)}' for n in wins)} |"
            f"\n"
        )
        for name in ("lambda_paper", "lambda_prequential"):
            cells = [f"{statistics.mean(r['streams'][stream][name] for r in runs):.2f}" for stream in streams]
            out(f"| {name} | {' | '.join(cells)} |\n")
        for weight in ("paper", "prequential") if control == "LLaVA" else ():
            found = [run(seed, control, weight=weight)["streams"] for seed in args.seeds]
            cells = [
                f"{100 * statistics.mean(f[s]['scores']['ants']['auroc'] for f in found):.2f}"
                for s in streams
            ]
            out(f"| ants, weight: {weight} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
