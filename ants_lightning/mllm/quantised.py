"""The quantised layers of a local MLLM: how the CPU computes each, and whether it does so rightly.

With AVX512-BF16 bitsandbytes repacks a 4-bit weight at its first use and computes in bfloat16, whatever the
compute dtype; a layer that does not fit into the packed form fails. Other versions may bring other such
paths, so one layer of each kind is tried.
"""

import logging
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_OUT = 32  # rows of a weight that are packed together
ROWS = (1, 40)  # of an input: one token of an answer, a prompt; the kernels differ by that
# Largest relative difference between a layer and the product with its dequantised weight. In int8 the inputs
# are quantised too.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
TOLERANCE_TF32, TOLERANCE_INT8 = 1e-2, 5e-2


def fits_fast_path(out_features: int, in_features: int, blocksize: int, dtype: torch.dtype) -> bool:
    """Whether a 4-bit layer may be packed for AVX512-BF16: its shape fits, and bfloat16 was asked for.

    >>> fits_fast_path(11008, 4096, 64, torch.bfloat16), fits_fast_path(128, 352, 64, torch.bfloat16)
    (True, False)
    """
    return dtype == torch.bfloat16 and out_features % BLOCK_OUT == 0 and in_features % blocksize == 0


class FirstOnly(logging.Filter):
    """Lets each message through once: in int8 bitsandbytes repeats one at every product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


first_only = FirstOnly()


def choose_paths(model: nn.Module) -> tuple[int, int]:
    """Let the 4-bit layers that fit it take the fast path of the CPU, if there is one, and no others.

    Returns:
        How many 4-bit layers take the fast path, and how many the plain one: dequantise, then multiply in the
        compute dtype.
    """
    layers: list[Any] = [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
    for layer in layers:
        if _is_fast(layer):
            state = layer.weight.quant_state
            layer.support_avx512bf16_for_cpu = fits_fast_path(
                layer.out_features, layer.in_features, state.blocksize, layer.compute_dtype
            )
    fast = sum(map(_is_fast, layers))
    return fast, len(layers) - fast


def check_layers(model: nn.Module, dtype: torch.dtype) -> int:
    """Compare one quantised layer of each kind with the product with its dequantised weight.

    The input is small and random.

    Of one kind are layers of the same class, shape and path, all with a bias or all without. Weights stay as
    they are, but for the packing of the fast path: all that take it are packed here, so that nothing can
    interrupt that later.

    Args:
        model: on the device where it will run.
        dtype: of the layers' inputs.

    Returns:
        How many kinds there are.

    Raises:
        RuntimeError: if a layer fails or differs; it names the layer, its shape, the versions and the CPU or
            GPU.
    """
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(first_only)
    kinds = set()
    for path, layer in model.named_modules():
        if type(layer).__name__ not in ("Linear4bit", "Linear8bitLt"):
            continue
        kind = (type(layer), layer.in_features, layer.out_features, layer.bias is None, _is_fast(layer))
        if kind not in kinds:
            kinds.add(kind)
            _check(path, layer, dtype)
        elif _is_fast(layer):
            layer(torch.zeros(1, layer.in_features, dtype=dtype))
    return len(kinds)


def _is_fast(layer: Any) -> bool:
    return bool(getattr(layer, "support_avx512bf16_for_cpu", False)) and layer.weight.device.type == "cpu"


def _check(path: str, layer: Any, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    if type(layer).__name__ == "Linear8bitLt":
        tolerance = TOLERANCE_INT8
    elif dtype == torch.float32 and layer.weight.device.type != "cpu":
        tolerance = TOLERANCE_TF32  # where PyTorch is told that it may
    try:
        difference = _difference(layer, dtype)
    except Exception as error:
        raise RuntimeError(f"{_describe(path, layer, dtype)} fails: {error}") from error
    if not difference <= tolerance:  # NaN differs
        raise RuntimeError(
            f"{_describe(path, layer, dtype)} does not compute what its weights say: its relative "
            f"difference to the product with the dequantised weight is {difference:.2g}, more than "
            f"{tolerance:g}"
        )


@torch.no_grad()
def _difference(layer: Any, dtype: torch.dtype) -> float:
    """The largest relative difference in the output, over inputs of some sizes."""
    weight = _dequantised(layer)  # before the first forward, which may change how the weight is stored
    bias = None if layer.bias is None else layer.bias.float()
    generator = torch.Generator().manual_seed(0)
    worst = torch.zeros(())
    with torch.autocast(weight.device.type, enabled=False):
        for rows in ROWS:
            x = torch.randn(1, rows, layer.in_features, generator=generator).to(weight.device, dtype)
            wanted = F.linear(x.float(), weight, bias)  # (1, rows, out)
            norm = wanted.norm().clamp_min(torch.finfo(torch.float32).tiny)
            worst = torch.maximum(worst, ((layer(x).float() - wanted).norm() / norm).cpu())  # keeps NaN
    return float(worst)


def _dequantised(layer: Any) -> Tensor:
    """The weight in float32, `(out, in)`."""
    from bitsandbytes import functional  # takes seconds, and is needed for quantised models only

    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return weight.data.float() * (weight.SCB.float() / 127).unsqueeze(1)


def _describe(path: str, layer: Any, dtype: torch.dtype) -> str:
    import bitsandbytes

    device = layer.weight.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return (
        f"layer {path} ({type(layer).__name__}, {layer.in_features} to {layer.out_features}, {dtype}; "
        f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}, {hardware})"
    )


def processor_name() -> str:
    """The CPU's name where the system tells it, and what PyTorch uses of it, such as `AVX512`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{(names or [platform.processor() or platform.machine()])[0]}, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
