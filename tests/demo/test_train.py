"""The training script in one go, on next to no images: what it writes loads as the shipped models do."""

import json
import subprocess
import sys

import torch
from PIL import Image

from ants_lightning import ANTS
from ants_lightning.mllm import TransformersMLLM


def test_the_script_trains_all_parts_and_they_load(tmp_path):
    command = [sys.executable, "-m", "ants_lightning.demo.train", "--scale", "0.003", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    cards = {
        part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("detector", "eyes", "llava")
    }
    images = {part: [stage["images"] for stage in card["stages"]] for part, card in cards.items()}
    assert images == {"detector": [576], "eyes": [576, 576], "llava": [320, 320]}
    assert ANTS(f"local-dir:{tmp_path / 'detector'}", class_names=["star"]).encoder(["star"]).shape == (
        1,
        128,
    )
    mllm = TransformersMLLM(str(tmp_path / "llava"), max_new_tokens=3)
    mllm.setup(torch.device("cpu"))
    assert len(mllm.describe([Image.new("RGB", (64, 64))], ["star"])) == 1
