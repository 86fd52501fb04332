"""Exchange between ranks: tensors and plain JSON values, never pickled objects.

Every function that gathers is a collective: all ranks call it at once.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


def several_ranks() -> bool:
    """Whether there are other processes to exchange with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_tensor(x: Tensor) -> list[Tensor]:
    """The tensors `(n_r, …)` of all ranks, in order of rank, on the CPU.

    n_r may differ between ranks; the other dimensions and the dtype may not.
    """
    if not several_ranks():
        return [x.cpu()]
    return [part.cpu() for part in gather_all_tensors(x.to(_exchange_device()))]


def gather_rows(rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Columns `(n_r, …)` by name of all ranks, in order of rank; the names are the same on every rank."""
    columns = {name: gather_tensor(column) for name, column in rows.items()}
    return [dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)]


def gather_json(value: Any) -> list[Any]:
    """The value of every rank, in order of rank: numbers, strings, None, and lists and dicts of them."""
    if not several_ranks():
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)  # (bytes,)
    return [json.loads(part.numpy().tobytes()) for part in gather_tensor(text)]


def _exchange_device() -> torch.device:
    """Where the process group exchanges tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
