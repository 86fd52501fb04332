"""A local MLLM of any transformers family, in 4 bits."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import nn

from ants_lightning.common.settings import check_counts, check_flags, plain
from ants_lightning.mllm.base import ChatMLLM, Question
from ants_lightning.mllm.loading import fingerprint, load_model, model_name, outside, read_configuration
from ants_lightning.mllm.weights import check_cache, check_folder

logger = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")


class TransformersMLLM(ChatMLLM):
    """An `AutoModelForImageTextToText` with its own processor and chat template, greedy, in batches.

    Weights are loaded at the first question. The decoder of the language model is quantised; vision tower,
    projector and `lm_head` are not. An answer does not depend on the batch that its question was in (to float
    rounding). A batch that fails or does not fit into GPU memory is halved.

    A bad setting is a ValueError here. At set-up a model that is missing, torn or only a git-lfs pointer is
    an OSError; one with nothing to quantise, or whose processor cannot make a question, a ValueError. A 4-bit
    or 8-bit layer that does not compute what its weights say is a RuntimeError when they are loaded.

    Args:
        model: hub name or local folder; `~` is the home folder.
        revision: of a hub model.
        quantization: `nf4` (double quantisation), `int8` or `none`.
        compute_dtype: `float32`, `bfloat16`, `float16`; `auto` is bfloat16 on CUDA and float32 on the CPU.
            With `bfloat16` NF4 is faster on CPUs with AVX512-BF16.
        attention: attention implementation (`sdpa`, `eager`, `flash_attention_2`); None: the model's own
            choice.
        batch_size: images or class names per generation.
        offload: keep the weights in main memory between questions.
        chat: the settings of `ChatMLLM`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        revision: str | None = None,
        quantization: Literal["nf4", "int8", "none"] = "nf4",
        compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        attention: str | None = None,
        batch_size: int = 16,
        offload: bool = False,
        **chat: Any,
    ) -> None:
        super().__init__(**chat)
        if quantization not in ("nf4", "int8", "none") or compute_dtype not in DTYPES:
            raise ValueError(f"unknown quantization or compute_dtype: {quantization!r}, {compute_dtype!r}")
        batch_size, offload = plain(batch_size), plain(offload)
        check_counts(batch_size=batch_size)
        check_flags(offload=offload)
        self.name = model_name(model)
        self.revision, self.quantization, self.compute_dtype = revision, quantization, compute_dtype
        self.attention, self.batch_size, self.offload = attention, batch_size, offload
        self.model: Any = None
        self.processor: Any = None
        self.commit: str | None = None

    @property
    def at_once(self) -> int:  # type: ignore[override]
        """See `ChatMLLM.at_once`: two batches, so that questions of about one length can go together."""
        return 2 * self.batch_size

    def identity(self) -> dict[str, Any]:
        """See `ChatMLLM.identity`; known after `setup`.

        It holds no paths, so that a record can move to another machine.
        """
        own = {
            "model": self.name,
            "revision": self.commit,
            "quantization": self.quantization,
            "dtype": str(self.dtype),
        }
        if Path(self.name).is_dir():
            own["model"] = Path(self.name).resolve().name
        return {**own, **super().identity()}

    def setup(self, device: torch.device) -> None:
        """Read configuration and processor, check the weight files, and find what is quantised.

        No weights are read.
        """
        from transformers import AutoModelForImageTextToText

        folder = Path(self.name)
        if (
            os.path.isabs(self.name) or self.name.startswith(".") or self.name.count("/") > 1
        ) and not folder.is_dir():
            raise OSError(f"no such model folder: {self.name}")
        self.device = device
        auto = "bfloat16" if device.type == "cuda" else "float32"
        self.dtype = getattr(torch, auto if self.compute_dtype == "auto" else self.compute_dtype)
        config, self.processor = read_configuration(self.name, self.revision)
        own_name = getattr(config, "transformers_weights", None)
        if folder.is_dir():
            check_folder(folder, own_name)
            self.commit = fingerprint(folder)
        else:
            self.commit = getattr(config, "_commit_hash", None) or self.revision
            check_cache(self.name, self.commit, own_name)
        self._try_questions()
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config)
        decoder = empty.get_decoder()
        if self.quantization != "none" and not any(isinstance(m, nn.Linear) for m in decoder.modules()):
            raise ValueError(f"{self.name}: no linear layer to quantise in {type(decoder).__name__}")
        self.unquantised = outside(empty, decoder)

    def _try_questions(self) -> None:
        """Make the inputs of a question with and one without an image, to find an unfit template."""
        for image in (None, Image.new("RGB", (224, 224), "gray")):
            what = "text" if image is None else "image and text"
            try:
                tokens = self._inputs([Question("What is this?", image)])["input_ids"]
            except Exception as error:
                raise ValueError(
                    f"{self.name}: its processor cannot make a question of {what}. Take a model that "
                    "follows instructions, with its chat template (chat_template.jinja or .json) beside "
                    f"the weights: {error}"
                ) from error
            mark = getattr(self.processor, "image_token_id", None)
            if image is not None and mark is not None and mark not in tokens:
                raise ValueError(f"{self.name}: its chat template leaves the image out of the question")

    def load(self) -> None:
        """Load the weights to the device of `setup` and check the quantised layers, once."""
        if self.processor is None:
            raise RuntimeError(f"{self.name} is not set up: call setup(device) first")
        if self.model is not None:
            return
        model = load_model(
            self.name,
            self.revision,
            self.quantization,
            dtype=self.dtype,
            device=self.device,
            attention=self.attention,
            unquantised=self.unquantised,
        )
        self.model = model  # not before: a load that was interrupted begins anew

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """See `ChatMLLM.answer`. Questions of about one length go together."""
        self.load()
        if self.offload:
            self.model.to(self.device)
        self._error: Exception | None = None
        answers: dict[int, str | None] = {}
        waiting = sorted(range(len(questions)), key=lambda i: _length(questions[i]))
        try:
            while waiting:
                part, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
                answers.update(zip(part, self._answer_batch([questions[i] for i in part]), strict=True))
        finally:  # a signal may end it
            if self.offload:
                self.model.to("cpu")
                torch.cuda.empty_cache()
        if self._error is not None:
            failed = list(answers.values()).count(None)
            if failed == len(questions):
                raise self._error
            logger.warning(
                "%s failed at %d of %d questions: %s: %s",
                self.name,
                failed,
                len(questions),
                type(self._error).__name__,
                self._error,
            )
        return [answers[i] for i in range(len(questions))]

    def _answer_batch(self, questions: Sequence[Question]) -> list[str | None]:
        """The answers to one batch; where it fails, to its halves: a processor may refuse one image."""
        try:
            return list(self._generate(questions))
        except Exception as error:
            if len(questions) == 1:
                self._error = error
                return [None]
            out_of_memory = isinstance(error, torch.OutOfMemoryError)
        half = len(questions) // 2
        if out_of_memory:  # not in the handler, which still holds the tensors
            self.batch_size = half
            torch.cuda.empty_cache()
            logger.warning(
                "%s: out of memory with %d questions, now %d at a time", self.name, len(questions), half
            )
        return [*self._answer_batch(questions[:half]), *self._answer_batch(questions[half:])]

    def _inputs(self, questions: Sequence[Question]) -> Any:
        """What the processor makes of one batch."""
        chats = []
        for question in questions:
            image = [{"type": "image", "image": question.image}] if question.image is not None else []
            chats.append([{"role": "user", "content": [*image, {"type": "text", "text": question.text}]}])
        try:
            return self.processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        except StopIteration as error:  # of transformers 5.17, without a word
            raise ValueError("a question holds more marks of an image than it has images") from error

    def _generate(self, questions: Sequence[Question]) -> list[str]:
        """The answers to one batch."""
        inputs = self._inputs(questions).to(self.device, self.dtype)
        with torch.autocast(self.device.type, enabled=False):
            tokens = self.model.generate(  # a model's own repetition penalty would count the padding
                **inputs,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        return self.processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )


def _length(question: Question) -> tuple[int, int]:
    size = question.image.size if question.image is not None else (0, 0)
    return size[0] * size[1], len(question.text)
