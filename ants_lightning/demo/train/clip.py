"""Train a miniature open_clip model on the demo world: the detector's, or the one with the LLaVA's eyes."""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.tokens import build_tokenizer
from ants_lightning.demo.train.optim import Optimizers
from ants_lightning.demo.world import (
    CONTEXT_SHARE,
    OBJECTS,
    SIZE,
    THINGS,
    draw_images_and_masks,
    image_facts,
    sample_specs,
    training_captions,
)

logger = logging.getLogger(__name__)

MEAN, STD = 0.5, 0.25  # of the pixels; the preprocessors of both models use them
CONTEXT = 14
BATCH = 64
VISION: dict[str, dict[str, Any]] = {
    "detector": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "eyes": {
        "image_size": SIZE,
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
        "pool_type": "avg",
    },
}
# Size in pixels and width of the parts of an image in the losses
PARTS = {"detector": (16, 256), "eyes": (8, 128)}


def save_clip(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write an open_clip folder, loadable as `local-dir:<folder>`; weights as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, str(folder / "open_clip_model.safetensors"))
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    build_tokenizer([], CONTEXT, "right").save_pretrained(str(folder))


def clip_config(vision: dict[str, Any]) -> dict[str, Any]:
    """The open_clip config of a miniature model with this vision tower."""
    tokenizer = build_tokenizer([], CONTEXT, "right")
    text = {
        "context_length": CONTEXT,
        "vocab_size": len(tokenizer),
        "width": 96,
        "heads": 4,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": tokenizer.eos_token_id,
        "pad_id": tokenizer.pad_token_id,
        "hf_tokenizer_name": "ants-lightning-demo",  # any name: the tokenizer lies in the folder
    }
    preprocess = {"size": SIZE, "mean": [MEAN] * 3, "std": [STD] * 3}
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }


def _sincos(side: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine positions, (side², width)."""
    rate = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    wave = torch.arange(side).outer(rate)
    line = torch.cat([wave.sin(), wave.cos()], 1)  # (side, width / 2)
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], 1)


class _Loss(nn.Module):
    """The loss: contrast of images and captions, the object among all names, what each part shows.

    One label an image teaches shapes slowly. So every part of the feature map (a ViT's patches, a ResNet's
    third layer) also tells its part of the object's mask and, where it shows some of it, the object's name.
    The LLaVA sees by these patches.
    """

    names: Tensor

    def __init__(self, model: open_clip.CLIP, patch: int, width: int) -> None:
        super().__init__()
        self.model, self.patch = model, patch
        self.tokenizer = build_tokenizer([], CONTEXT, "right")
        self.register_buffer("names", self.tokenize([f"the nice {name}." for name in OBJECTS]))
        self.mask_head = nn.Linear(width, patch * patch)
        self.token_head = nn.Linear(width, len(THINGS))
        self.parts = torch.empty(0)  # (n, parts, width) of the last batch
        if hasattr(model.visual, "layer3"):
            model.visual.layer3.register_forward_hook(
                lambda _, __, out: self._keep(out.flatten(2).transpose(1, 2))
            )
        else:
            model.visual.ln_post.register_forward_hook(lambda _, __, out: self._keep(out[:, 1:]))
            with torch.no_grad():  # a regular start: positions far apart differ more than neighbours
                model.visual.positional_embedding[1:].copy_(_sincos(SIZE // patch, width) * width**-0.5)

    def _keep(self, parts: Tensor) -> None:
        self.parts = parts

    def tokenize(self, texts: list[str]) -> Tensor:
        encoded = self.tokenizer(
            texts, max_length=CONTEXT, padding="max_length", truncation=True, return_tensors="pt"
        )
        return encoded.input_ids

    def forward(
        self, pixels: Tensor, masks: Tensor, facts: Tensor, texts: list[str], said: Tensor, thing: Tensor
    ) -> dict[str, Tensor]:
        first = {text: i for i, text in reversed(list(enumerate(texts)))}  # each distinct caption once
        said = said[list(first.values())]
        tokens = torch.cat([self.tokenize(list(first)).to(pixels.device), self.names])
        image = F.normalize(self.model.visual(pixels), dim=-1)
        text = F.normalize(self.model.encode_text(tokens), dim=-1)
        captions, names = text[: len(first)], text[len(first) :]
        scale = self.model.logit_scale.exp()
        # Of shape (n, captions)
        fits = ((said.unsqueeze(0) == -1) | (said.unsqueeze(0) == facts.unsqueeze(1))).all(2).float()
        logits = scale * image @ captions.T
        contrast = F.cross_entropy(logits, fits / fits.sum(1, keepdim=True))
        contrast = contrast + F.cross_entropy(logits.T, (fits / fits.sum(0, keepdim=True)).T)
        shown = thing < len(OBJECTS)
        losses = {
            "contrast": contrast / 2,
            "names": F.cross_entropy(scale * image[shown] @ names.T, thing[shown]),
        }
        # Of shape (n, parts, pixels)
        target = F.pixel_unshuffle(masks.unsqueeze(1), self.patch).flatten(2).transpose(1, 2)
        losses["mask"] = F.binary_cross_entropy_with_logits(self.mask_head(self.parts), target)
        image_of, place = (target.mean(2) > 0.15).nonzero(as_tuple=True)
        losses["token"] = F.cross_entropy(self.token_head(self.parts[image_of, place]), thing[image_of])
        return losses


def make_batch(
    n: int,
    names: list[str],
    g: torch.Generator,
    rng: random.Random,
    plain: float = 0.25,
    context: float = 0.0,
) -> tuple[Any, ...]:
    """Fresh images with captions: pixels, masks, facts, texts, what the texts say, things."""
    specs = sample_specs(n, names, g, plain, context)
    images, masks = draw_images_and_masks(specs, g)
    texts, said = training_captions(specs, rng)
    return (images.float() / 255 - MEAN) / STD, masks, image_facts(specs), texts, said, specs.thing


# Mostly objects: textures and scenes by themselves are rare, as they are among the captioned images of the
# web.
SHOWN = [*OBJECTS * 4, *TEXTURES, *SCENES]


def train_clip(
    name: str, images: int, seed: int, folder: Path, start: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Train `VISION[name]` on this many fresh images and save it to `folder`.

    Returns what the model card tells.

    Objects stand on plain colours at first, and for the last 40 % of the images where they do in the streams:
    mostly where they are usually found. From the model in `start` it goes on as at that end, with 0.6 times
    the rate.
    """
    torch.manual_seed(seed)
    g, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    config = clip_config(VISION[name])
    model = open_clip.CLIP(**config["model_cfg"])
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    loss = _Loss(model, *PARTS[name]).to(device)
    if start:
        model.load_state_dict(
            {k: v.float() for k, v in load_file(start / "open_clip_model.safetensors").items()}
        )
    if name == "detector":
        model.visual.to(memory_format=torch.channels_last)
    steps, peak = images // BATCH, 2e-3 if name == "detector" else 1e-3
    optimizers = Optimizers(
        loss, peak, steps, 0.05, "resblocks" if name == "eyes" else None, again=start is not None
    )
    begun, shown = time.monotonic(), dict[str, float]()
    for step in range(steps):
        plain = 0.25 if start else max(0.25, 1 - step / (0.3 * steps))
        batch = make_batch(BATCH, SHOWN, g, rng, plain, CONTEXT_SHARE if start or step > 0.6 * steps else 0.0)
        losses = loss(*(x.to(device) if isinstance(x, Tensor) else x for x in batch))
        sum(losses.values()).backward()
        optimizers.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6052)  # 100, CLIP's own bound
        for key, value in losses.items():
            shown[key] = 0.98 * shown.get(key, value.item()) + 0.02 * value.item()
        if step % 100 == 99 or step == steps - 1:
            rate = (step + 1) * BATCH / (time.monotonic() - begun)
            logger.info(
                "%s step %d/%d, %.0f images/s, scale %.0f, %s",
                name,
                step + 1,
                steps,
                rate,
                model.logit_scale.exp().item(),
                {k: round(v, 3) for k, v in shown.items()},
            )
        if step % 500 == 499 or step == steps - 1:
            save_clip(model, config, folder)
    return {
        "seed": seed,
        "images": steps * BATCH,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "logit_scale": round(model.logit_scale.exp().item(), 1),
        "losses": {k: round(v, 3) for k, v in shown.items()},
    }


@torch.inference_mode()
def name_accuracy(folder: Path, names: list[str], seed: int, n: int = 2400) -> float:
    """Zero-shot accuracy among `names` on fresh images of them, prompt "The nice {}."."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([f"The nice {name}." for name in names])
    text = model.encode_text(tokens, normalize=True)
    g, hits = torch.Generator().manual_seed(seed), 0.0
    for _ in range(n // 240):
        pixels, _, _, _, _, thing = make_batch(240, names, g, random.Random(0))
        target = torch.tensor([names.index(THINGS[int(t)]) for t in thing])
        hits += (
            (model.encode_image(pixels, normalize=True) @ text.T).argmax(1).eq(target).float().mean().item()
        )
    return hits / (n // 240)
