"""Train the models of the demo: `python -m ants_lightning.demo.train --out <folder>`.

Two processes side by side: the detector's CLIP; and the CLIP that lends its image tower to the LLaVA, then the LLaVA. With
`--only` one part alone. Each part leaves its folder and a JSON file with what the model card tells.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.demo.train.clip import name_accuracy, train_clip
from ants_lightning.demo.train.llava import naming_accuracy, train_llava
from ants_lightning.demo.world import OBJECTS, THINGS

IMAGES = {"detector": 200_000, "eyes": 260_000, "llava": 112_000}
KINDS = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "textures": list(TEXTURES), "scenes": SCENES}
SEED, FRESH = 0, 900  # of the training, and the first of the images that the accuracies are measured on


def train_part(part: str, out: Path, scale: float, device: str) -> dict[str, Any]:
    """Train one part and measure it on fresh images; what the model card tells of it."""
    images = int(IMAGES[part] * scale)
    if part == "llava":
        card = train_llava(out / "eyes", images, SEED, out / "llava", device)
        for quantization in ("nf4", "none"):
            card[f"named right, {quantization}"] = {
                kind: naming_accuracy(out / "llava", names, FRESH + i, quantization)
                for i, (kind, names) in enumerate(KINDS.items())
            }
        return card
    card = train_clip(part, images, SEED, out / part, device)
    kinds = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "objects": OBJECTS, "things": THINGS}
    accuracy = {kind: round(name_accuracy(out / part, names, FRESH + i), 3) for i, (kind, names) in enumerate(kinds.items())}
    return {**card, "zero-shot accuracy among": accuracy}


def train_parts(parts: list[str], args: argparse.Namespace) -> None:
    """Train parts one after another, in a process of their own."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    for part in parts:
        card = train_part(part, args.out, args.scale, args.device)
        (args.out / f"{part}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m ants_lightning.demo.train", description="Train the demo's models.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-train"))
    parser.add_argument("--only", choices=list(IMAGES), nargs="*", default=list(IMAGES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    args = parser.parse_args()
    chains = [[part for part in chain if part in args.only] for chain in (["detector"], ["eyes", "llava"])]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(train_parts, chain, args) for chain in chains if chain]:
            done.result()


if __name__ == "__main__":
    main()
