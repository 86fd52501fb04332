"""Train the models of the demo: `python -m ants_lightning.demo.train --out <folder>`.

Two CLIPs (the detector's, and the one that lends its image tower to the LLaVA), each in two stages, then the LLaVA. The
stages may run side by side on two cores with `--only`: `detector`, `eyes`, then `llava`.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.demo.train.clip import name_accuracy, train_clip
from ants_lightning.demo.train.llava import naming_accuracy, train_llava
from ants_lightning.demo.world import OBJECTS, THINGS

IMAGES = {"detector": (220_000, 115_000, 90_000), "eyes": (290_000, 58_000), "llava": (112_000,)}
KINDS = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "textures": list(TEXTURES), "scenes": SCENES}


def train_part(part: str, out: Path, scale: float, device: str) -> dict[str, Any]:
    """Train one part and measure it on fresh images; what the model card tells of it."""
    counts = [int(n * scale) for n in IMAGES[part]]
    if part == "llava":
        card: dict[str, Any] = train_llava(out / "eyes", counts[0], 0, out / "llava", device)
        for quantization in ("nf4", "none"):
            named = {kind: naming_accuracy(out / "llava", names, i, quantization) for i, (kind, names) in enumerate(KINDS.items())}
            card[f"named right, {quantization}"] = named
        return card
    stages, start = [], None
    for stage, count in enumerate(counts):
        folder = out / (part if stage == len(counts) - 1 else f"{part}_{stage}")
        stages.append(train_clip(part, count, stage, folder, start, device))
        start = folder
    kinds = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "objects": OBJECTS, "things": THINGS}
    accuracy = {kind: round(name_accuracy(out / part, names, i + 1), 3) for i, (kind, names) in enumerate(kinds.items())}
    return {"stages": stages, "zero-shot accuracy among": accuracy}


def main() -> None:
    """Train what is asked for and write `<out>/<part>.json` beside it."""
    parser = argparse.ArgumentParser(prog="python -m ants_lightning.demo.train", description="Train the demo's models.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-train"))
    parser.add_argument("--only", choices=list(IMAGES), nargs="*", default=list(IMAGES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    for part in args.only:
        card = train_part(part, args.out, args.scale, args.device)
        (args.out / f"{part}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
