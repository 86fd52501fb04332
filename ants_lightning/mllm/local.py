"""A local MLLM of any transformers family, in 4 bits."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from ants_lightning.mllm.base import DESCRIBE_PROMPT, SIMILAR_PROMPT, parse_names, parse_sentence

logger = logging.getLogger(__name__)

# Head, vision towers and projectors, as the families call them, stay unquantised. A name matches from the start of a
# module's path or as its last part; those that a model lacks do nothing.
UNQUANTISED = ["lm_head", *(f"model.{name}" for name in (
    "vision_tower", "multi_modal_projector", "vision_model", "connector", "visual"))]  # fmt: skip


class TransformersMLLM:
    """An `AutoModelForImageTextToText` with its own processor and chat template, loaded at set-up, greedy, in batches.

    A bad setting is a ValueError here; at set-up a missing model is an OSError, and one with nothing to quantise a ValueError.

    Args:
        model: hub name or local folder.
        revision: of a hub model.
        quantization: `nf4` (double quantisation) or `none`.
        compute_dtype: `float32`, `bfloat16`, `float16`; `auto` is bfloat16 on CUDA and float32 on the CPU.
        batch_size: images or class names per generation.
        max_new_tokens: per answer.
        describe_prompt: asks for a few words on an image; `{name}` is the class name to avoid.
        similar_prompt: asks for similar classes; `{name}` and `{count}` are filled in.
    """

    def __init__(
        self, model: str, revision: str | None = None, quantization: Literal["nf4", "none"] = "nf4",
        compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto", batch_size: int = 16,
        max_new_tokens: int = 48, describe_prompt: str = DESCRIBE_PROMPT, similar_prompt: str = SIMILAR_PROMPT,
    ) -> None:  # fmt: skip
        if quantization not in ("nf4", "none") or compute_dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"unknown quantization or compute_dtype: {quantization!r}, {compute_dtype!r}")
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(f"batch_size and max_new_tokens must be at least 1, got {batch_size} and {max_new_tokens}")
        self.name, self.revision, self.quantization, self.compute_dtype = model, revision, quantization, compute_dtype
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.describe_prompt, self.similar_prompt = describe_prompt, similar_prompt
        self.model: Any = None
        self.processor: Any = None

    def setup(self, device: torch.device) -> None:
        """Load the model to `device` and say how many layers are in 4 bits; a second call does nothing."""
        if self.model is not None:
            return
        if (self.name.startswith((".", "/", "~")) or self.name.count("/") > 1) and not Path(self.name).is_dir():
            raise OSError(f"no such model folder: {self.name}")
        auto = "bfloat16" if device.type == "cuda" else "float32"
        dtype = getattr(torch, auto if self.compute_dtype == "auto" else self.compute_dtype)
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=UNQUANTISED,
        )  # fmt: skip
        self.processor = AutoProcessor.from_pretrained(self.name, revision=self.revision)
        self.processor.tokenizer.padding_side = "left"  # batched answers equal single ones only so
        model = AutoModelForImageTextToText.from_pretrained(
            self.name, revision=self.revision, dtype=dtype, device_map={"": device},
            quantization_config=config if self.quantization == "nf4" else None,
        )  # fmt: skip
        self.model = model.eval()
        linear = [type(m).__name__ for m in model.modules() if isinstance(m, torch.nn.Linear)]
        four_bit, size = linear.count("Linear4bit"), model.get_memory_footprint() / 1e6
        if self.quantization == "nf4" and not four_bit:
            raise ValueError(f"{self.name}: none of its {len(linear)} linear layers was quantised")
        logger.info("%s: %d of %d linear layers in 4 bits, %.1f MB", self.name, four_bit, len(linear), size)

    def describe(self, images: Sequence[Image], avoid: Sequence[str]) -> list[str]:
        """A few words for each image, without its name in `avoid`; "" where the answer held nothing."""
        chats = [self._chat(self.describe_prompt.format(name=n), image) for n, image in zip(avoid, images, strict=True)]
        return [parse_sentence(answer) for answer in self._answers(chats)]

    def similar_classes(self, names: Sequence[str], count: int = 5) -> list[list[str]]:
        """Up to `count` other class names for each name."""
        answers = self._answers([self._chat(self.similar_prompt.format(name=name, count=count)) for name in names])
        return [parse_names(answer, count) for answer in answers]

    @staticmethod
    def _chat(text: str, image: Image | None = None) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [{"type": "image", "image": image}] if image is not None else []
        return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]

    @torch.inference_mode()
    def _answers(self, chats: list[list[dict[str, Any]]]) -> list[str]:
        if self.model is None:
            raise RuntimeError(f"{self.name} is not loaded: call setup(device) first")
        answers: list[str] = []
        for i in range(0, len(chats), self.batch_size):
            inputs = self.processor.apply_chat_template(
                chats[i : i + self.batch_size], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt", processor_kwargs={"padding": True},
            ).to(self.model.device, self.model.dtype)  # fmt: skip
            with torch.autocast(self.model.device.type, enabled=False):
                tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            answers += self.processor.batch_decode(new, skip_special_tokens=True)
        return answers
