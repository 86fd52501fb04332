"""Loading of a local MLLM: configuration and processor, weights in 4 bits, and what tells models apart."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ants_lightning.common.hashes import digest_of
from ants_lightning.common.settings import plain_path
from ants_lightning.mllm.quantised import check_layers, choose_paths
from ants_lightning.mllm.weights import pointers

logger = logging.getLogger(__name__)


def model_name(model: str | os.PathLike[str]) -> str:
    """A hub name or folder as text; what is a path, not text, is never taken for a hub name."""
    name = plain_path(model)
    if not isinstance(name, str) or not name:
        raise ValueError(f"model must be a hub name or a folder, got {model!r}")
    return name if isinstance(model, str) or os.path.isabs(name) else os.path.join(os.curdir, name)


def read_configuration(name: str, revision: str | None) -> tuple[Any, Any]:
    """Configuration and processor of a model, by hub name or folder.

    Raises:
        OSError: where they cannot be read.
        ValueError: where the processor is not one for texts with images.
    """
    from transformers import AutoConfig, AutoProcessor

    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    except ImportError:  # tells what to install
        raise
    except Exception as error:  # of many kinds: a torn tokenizer.json is a bare Exception
        torn = pointers(Path(name)) if Path(name).is_dir() else []
        hint = f" ({', '.join(torn)} are git-lfs pointers: `git lfs pull` fetches the files)" if torn else ""
        raise OSError(f"{name}: configuration or processor cannot be read{hint}: {error}") from error
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise ValueError(
            f"{name}: its processor ({type(processor).__name__}) is not one for texts with images. Files "
            "such as preprocessor_config.json or tokenizer.json are missing, or the model cannot see"
        )
    processor.tokenizer.padding_side = "left"  # batched answers equal single ones only so
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return config, processor


def load_model(
    name: str,
    revision: str | None,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    unquantised: list[str],
) -> nn.Module:
    """Load the weights of a model, quantise its decoder, and check the quantised layers.

    Args:
        name: hub name or folder.
        revision: of a hub model.
        quantization: `nf4`, `int8` or `none`.
        dtype: of the weights that are not quantised, and of the computation.
        device: where the model goes.
        attention: attention implementation; None: the model's own choice.
        unquantised: paths of the modules that stay as they are.

    Raises:
        OSError: where weights are missing.
        RuntimeError: where other layers were quantised than the decoder's, or one does not compute what its
            weights say.
    """
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    configs = {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=unquantised,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=unquantised),
    }
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        name,
        revision=revision,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=True,
        attn_implementation=attention,
        quantization_config=configs.get(quantization),
        output_loading_info=True,
    )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # which transformers fills with random numbers
        raise OSError(f"{name}: {len(missing)} weights are in none of its files, such as {missing[0]}")
    inner, everywhere = _linear(model.get_decoder()), _linear(model)
    kind = {"nf4": "Linear4bit", "int8": "Linear8bitLt", "none": "Linear"}[quantization]
    if inner.count(kind) < len(inner) or (everywhere.count(kind) > len(inner) and quantization != "none"):
        raise RuntimeError(
            f"{name}: {inner.count(kind)} of the decoder's {len(inner)} layers are {kind}, and "
            f"{everywhere.count(kind) - inner.count(kind)} outside it"
        )
    bits = {"nf4": "in 4 bits", "int8": "in 8 bits", "none": "not quantised"}
    logger.info(
        "%s: %d of %d linear layers %s (the decoder's), %.1f MB",
        name,
        len(inner),
        len(everywhere),
        bits[quantization],
        model.get_memory_footprint() / 1e6,
    )
    _check(name, model.eval(), dtype)
    return model


def _check(name: str, model: nn.Module, dtype: torch.dtype) -> None:
    """Choose how the 4-bit layers are computed, and try the quantised ones."""
    begun = time.monotonic()
    fast, plain = choose_paths(model)
    kinds = check_layers(model, dtype)
    if kinds:
        on_cpu = fast + plain > 0 and next(model.parameters()).device.type == "cpu"
        paths = f"; of the 4-bit layers {fast} take the AVX512-BF16 path, {plain} the plain one"
        logger.info(
            "%s: %d kinds of layer compute what their weights say (tried in %.0f ms)%s",
            name,
            kinds,
            1000 * (time.monotonic() - begun),
            paths if on_cpu else "",
        )


def outside(model: nn.Module, part: nn.Module) -> list[str]:
    """Paths of the largest modules of `model` without any of `part`: vision tower, projector, head."""
    path = next(name for name, module in model.named_modules() if module is part).split(".")
    parents = [".".join(path[:depth]) for depth in range(len(path))]
    return [
        f"{parent}.{name}".lstrip(".")
        for depth, parent in enumerate(parents)
        for name, _ in model.get_submodule(parent).named_children()
        if name != path[depth]
    ]


def fingerprint(folder: Path, piece: int = 1 << 20) -> str:
    """SHA-256 of the size, the first and the last piece of each weight file.

    It tells models apart without reading all of them.
    """
    return digest_of(_pieces(folder, piece))


def _pieces(folder: Path, piece: int) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            yield f"{size}".encode() + file.read(piece)
            file.seek(max(0, size - piece))
            yield file.read(piece)


def _linear(module: nn.Module) -> list[str]:
    return [type(m).__name__ for m in module.modules() if isinstance(m, nn.Linear)]
