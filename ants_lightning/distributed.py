"""Bringing together what the ranks hold: tensors and plain JSON values, never pickled objects."""

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def several_ranks() -> bool:
    """Whether there are other processes to exchange with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_tensor(x: Tensor) -> list[Tensor]:
    """The tensors `(n_r, …)` of all ranks, in order of rank, on the CPU; n may differ between ranks, nothing else.

    To be called by every rank at once, as all functions here.
    """
    if not several_ranks():
        return [x.cpu()]
    x = x.to(_device()).contiguous()
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    longest = max(int(n) for n in counts)
    if not longest:
        return [x.cpu() for _ in counts]
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[: int(n)].cpu() for part, n in zip(parts, counts, strict=True)]


def gather_rows(rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Columns `(n_r, …)` of all ranks, with the same names in the same order on each."""
    columns = {name: gather_tensor(column) for name, column in rows.items()}
    return [dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)]


def gather_json(value: Any) -> list[Any]:
    """The value of every rank, in order of rank: numbers, strings, None, and lists and dicts of them."""
    if not several_ranks():
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(part.numpy().tobytes()) for part in gather_tensor(text)]


def _device() -> torch.device:
    """Where the process group exchanges tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
