"""Train the miniature LLaVA: the frozen eyes of a trained CLIP, and a small Llama that learns to describe."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ants_lightning.demo.shapes import FAMILIES, ID_CLASSES
from ants_lightning.demo.tokens import build_tokenizer
from ants_lightning.demo.train.clip import MEAN, STD, VISION
from ants_lightning.demo.train.optim import Optimizers
from ants_lightning.demo.world import (
    CONTEXT_SHARE,
    OBJECTS,
    SIZE,
    THINGS,
    Specs,
    caption,
    draw_images,
    look_alikes,
    sample_specs,
)
from ants_lightning.mllm import DESCRIBE_PROMPT, SIMILAR_PROMPT, TransformersMLLM

logger = logging.getLogger(__name__)

BATCH = 64
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def build_processor() -> LlavaProcessor:
    """The processor of the miniature, with a chat template of LLaVA's form."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ),
        tokenizer=build_tokenizer([DESCRIBE_PROMPT, SIMILAR_PROMPT, "5"], 256, "left"),
        patch_size=VISION["eyes"]["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
        chat_template=CHAT,
    )


def build_llava(eyes: Path, vocabulary: int, start: Path | None = None) -> LlavaForConditionalGeneration:
    """A LLaVA with the image tower of the open_clip model in `eyes`.

    Projector and Llama are fresh, or those in `start`.
    """
    v = VISION["eyes"]
    vision = CLIPVisionConfig(
        hidden_size=v["width"],
        intermediate_size=4 * v["width"],
        num_hidden_layers=v["layers"],
        hidden_act="gelu",
        num_attention_heads=v["width"] // v["head_width"],
        image_size=SIZE,
        patch_size=v["patch_size"],
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=3,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIZE // v["patch_size"]) ** 2,
    )
    if start:
        model = LlavaForConditionalGeneration.from_pretrained(str(start), dtype=torch.float32)
    else:
        model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    missing, unexpected = tower.load_state_dict(
        _to_transformers(load_file(eyes / "open_clip_model.safetensors")), strict=False
    )
    if unexpected or any("position_ids" not in name for name in missing):
        raise RuntimeError(f"the eyes do not fit: missing {missing}, unexpected {unexpected}")
    tower.requires_grad_(False)
    return model


def _to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an open_clip ViT under the names of `CLIPVisionModel`."""
    renamed = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
        "transformer.resblocks": "encoder.layers",
    }
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith("visual.") or name == "visual.proj":
            continue
        name = name.removeprefix("visual.")
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        if ".attn.in_proj_" in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                out[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = chunk.float()
        else:
            out[name] = value.float()
    return out


def _ask_about(specs: Specs, rng: random.Random) -> tuple[list[str], list[str]]:
    """Describe-questions and their answers: the name to avoid is a look-alike, the truth, or any class."""
    questions, answers = [], []
    for i in range(len(specs)):
        name = OBJECTS[int(specs.object[i])] if specs.object[i] >= 0 else ""
        alike = [
            other
            for other in next((f for f in FAMILIES if name in f), [])
            if other in ID_CLASSES and other != name
        ]
        u = rng.random()
        avoid = (
            name if name and u < 0.25 else rng.choice(alike) if alike and u < 0.7 else rng.choice(ID_CLASSES)
        )
        questions.append(DESCRIBE_PROMPT.format(name=avoid))
        answers.append(caption(specs, i, avoid))
    return questions, answers


def _similar(rng: random.Random, n: int) -> tuple[list[str], list[str]]:
    """Similar-questions and their answers."""
    names = [rng.choice(OBJECTS) for _ in range(n)]
    return [SIMILAR_PROMPT.format(name=name, count=5) for name in names], [
        ", ".join(look_alikes(name)) for name in names
    ]


def _encode(
    processor: LlavaProcessor, questions: list[str], answers: list[str], image: bool
) -> dict[str, Tensor]:
    tokens = (SIZE // VISION["eyes"]["patch_size"]) ** 2 if image else 0
    texts = [
        f"user : {'<image> ' * tokens}{q} assistant : {a} </s>"
        for q, a in zip(questions, answers, strict=True)
    ]
    batch = processor.tokenizer(texts, padding=True, return_tensors="pt")
    answer = processor.tokenizer(
        [f"{a} </s>" for a in answers], padding=True, return_tensors="pt"
    ).attention_mask
    labels = batch.input_ids.clone()
    labels[:, : labels.shape[1] - answer.shape[1]] = -100
    labels[:, -answer.shape[1] :][answer == 0] = -100  # left padding: answers are flush right
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def train_llava(
    eyes: Path, images: int, seed: int, folder: Path, start: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Train on this many fresh images, with a batch of class names for every 8 of images; save to `folder`.

    Objects stand and `start` goes on as in `train_clip`.
    """
    torch.manual_seed(seed)
    g, rng = torch.Generator().manual_seed(seed + 1), random.Random(seed + 1)
    processor = build_processor()
    model: Any = build_llava(eyes, len(processor.tokenizer), start).train()
    model.to(device)
    steps = images // BATCH
    optimizers = Optimizers(model, 2e-3, steps, 0.01, "language_model.layers", again=start is not None)
    begun, shown = time.monotonic(), {"describe": 0.0, "similar": 0.0}
    for step in range(steps):
        specs = sample_specs(BATCH, THINGS, g, context=CONTEXT_SHARE if start or step > 0.6 * steps else 0.0)
        pixels = (draw_images(specs, g).float() / 255 - MEAN) / STD
        batch = _encode(processor, *_ask_about(specs, rng), image=True)
        losses = {
            "describe": model(
                pixel_values=pixels.to(device), **{k: v.to(device) for k, v in batch.items()}
            ).loss
        }
        if step % 8 == 0:
            batch = _encode(processor, *_similar(rng, BATCH), image=False)
            losses["similar"] = model(**{k: v.to(device) for k, v in batch.items()}).loss
        torch.stack(list(losses.values())).sum().backward()
        optimizers.step()
        for key, value in losses.items():
            shown[key] = value.item() if step < 8 else 0.95 * shown[key] + 0.05 * value.item()
        if step % 100 == 99 or step == steps - 1:
            rate = (step + 1) * BATCH / (time.monotonic() - begun)
            logger.info(
                "llava step %d/%d, %.0f images/s, %s",
                step + 1,
                steps,
                rate,
                {k: round(v, 3) for k, v in shown.items()},
            )
        if step % 500 == 499 or step == steps - 1:
            model.half().save_pretrained(str(folder))
            model.float()
            processor.save_pretrained(str(folder))
    return {
        "seed": seed,
        "images": steps * BATCH,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "losses": {k: round(v, 3) for k, v in shown.items()},
    }


def naming_accuracy(
    folder: Path,
    names: list[str],
    seed: int,
    quantization: str = "nf4",
    n: int = 400,
    context: float = 0.0,
    wear: float = 1.0,
) -> float:
    """Share of fresh images of `names` whose description holds the right name, asked as in a real run."""
    mllm = TransformersMLLM(str(folder), quantization=quantization, batch_size=50, max_new_tokens=16)  # type: ignore[arg-type]
    mllm.setup(torch.device("cpu"))
    g, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    specs = sample_specs(n, names, g, context=context)
    images = [to_pil_image(image) for image in draw_images(specs, g, wear)]
    truth = [THINGS[int(k)] for k in specs.thing]
    said = mllm.describe(images, [rng.choice([c for c in ID_CLASSES if c != name]) for name in truth])
    return sum(name in (text or "").split() for name, text in zip(truth, said, strict=True)) / n
