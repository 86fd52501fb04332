"""The three parts of the demo's training: the detector's CLIP, the CLIP with the LLaVA's eyes, the LLaVA."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.demo.train.clip import name_accuracy, train_clip
from ants_lightning.demo.train.llava import naming_accuracy, train_llava
from ants_lightning.demo.world import CONTEXT_SHARE, OBJECTS, STREAM_WEAR, THINGS

# By stage. Each stage goes on from the one before, on images of its own; the LLaVA's with the eyes of the
# same stage.
IMAGES = {"detector": [200_000], "eyes": [200_000, 200_000], "llava": [120_000, 120_000]}
# What is trained side by side
ROUNDS = [[("detector", 0), ("eyes", 0)], [("eyes", 1), ("llava", 0)], [("llava", 1)]]
KINDS = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "textures": list(TEXTURES), "scenes": SCENES}
# The first seed of the images that the accuracies are measured on; the seeds of the training are the stages.
FRESH = 900


def begin(threads: int) -> None:
    """Set up a process of the training."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    torch.set_num_threads(threads)


def train_stage(part: str, stage: int, out: Path, scale: float, device: str) -> dict[str, Any]:
    """Train a stage of a part; what the model card tells of it."""
    names = [f"{part}_{i}" for i in range(len(IMAGES[part]) - 1)] + [part]
    images, start = int(IMAGES[part][stage] * scale), out / names[stage - 1] if stage else None
    if part == "llava":
        return train_llava(
            out / names[stage].replace("llava", "eyes"), images, stage, out / names[stage], start, device
        )
    return train_clip(part, images, stage, out / names[stage], start, device)


def measure(part: str, out: Path, scale: float) -> dict[str, Any]:
    """Measure a trained part on fresh images; what the model card tells of it."""
    if part != "llava":
        kinds = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "objects": OBJECTS, "things": THINGS}
        right = {
            kind: round(name_accuracy(out / part, names, FRESH + i), 3)
            for i, (kind, names) in enumerate(kinds.items())
        }
        return {"zero-shot accuracy among": right}
    asked = max(40, int(400 * min(1.0, scale)))
    shown = [("nf4", 0, 1), ("none", 0, 1), ("nf4", CONTEXT_SHARE, 1), ("nf4", CONTEXT_SHARE, STREAM_WEAR)]
    return {
        f"named right, {quantization}, context {context}, wear {wear}": {
            kind: naming_accuracy(out / part, names, FRESH + i, quantization, asked, context, wear)
            for i, (kind, names) in enumerate(KINDS.items())
        }
        for quantization, context, wear in shown
    }
