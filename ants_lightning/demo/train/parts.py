"""The three parts of the demo's training: the detector's CLIP, the CLIP that becomes the eyes of the LLaVA, and the LLaVA."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.demo.train.clip import name_accuracy, train_clip
from ants_lightning.demo.train.llava import naming_accuracy, train_llava
from ants_lightning.demo.world import CONTEXT_SHARE, OBJECTS, STREAM_WEAR, THINGS

# By stage. Each stage goes on from the one before, on images of its own; the LLaVA's with the eyes of the same stage.
IMAGES = {"detector": [200_000], "eyes": [260_000, 120_000], "llava": [150_000, 60_000]}
KINDS = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "textures": list(TEXTURES), "scenes": SCENES}
FRESH = 900  # the first seed of the images that the accuracies are measured on; the stages are the seeds of the training


def train_part(part: str, out: Path, scale: float, device: str) -> dict[str, Any]:
    """Train one part and measure it on fresh images; what the model card tells of it."""
    stages: list[dict[str, Any]] = []
    start, last = None, len(IMAGES[part]) - 1
    for stage, count in enumerate(IMAGES[part]):
        suffix, images = "" if stage == last else f"_{stage}", int(count * scale)
        folder = out / f"{part}{suffix}"
        if part == "llava":
            stages.append(train_llava(out / f"eyes{suffix}", images, stage, folder, start, device))
        else:
            stages.append(train_clip(part, images, stage, folder, start, device))
        start = folder
    card: dict[str, Any] = {"stages": stages}
    if part == "llava":
        asked = max(40, int(400 * min(1.0, scale)))
        shown = [("nf4", 0, 1), ("none", 0, 1), ("nf4", CONTEXT_SHARE, 1), ("nf4", CONTEXT_SHARE, STREAM_WEAR)]
        for quantization, context, wear in shown:
            card[f"named right, {quantization}, context {context}, wear {wear}"] = {
                kind: naming_accuracy(out / part, names, FRESH + i, quantization, asked, context, wear)
                for i, (kind, names) in enumerate(KINDS.items())
            }
    else:
        kinds = {"ID": ID_CLASSES, "near": NEAR_CLASSES, "objects": OBJECTS, "things": THINGS}
        card["zero-shot accuracy among"] = {
            kind: round(name_accuracy(out / part, names, FRESH + i), 3) for i, (kind, names) in enumerate(kinds.items())
        }
    return card


def train_parts(parts: list[str], out: Path, scale: float, device: str, threads: int) -> None:
    """Train parts one after another, in a process of their own; each leaves a folder and what the model card tells of it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    torch.set_num_threads(threads)
    for part in parts:
        card = train_part(part, out, scale, device)
        (out / f"{part}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
