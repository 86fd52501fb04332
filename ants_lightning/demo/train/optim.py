"""The optimisers of the training: Muon for the matrices of transformer layers, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

MUON_RATE = 0.01


class Muon(Optimizer):
    """Momentum made orthogonal, for matrices (Jordan et al., "Muon", 2024).

    Each direction of a step has the same length.

    `torch.optim.Muon` works in bfloat16, which the CPUs that this is trained on have no instructions for: a
    step of the eyes took 2.5 times as long. Here matrices of one shape go together, in float32, and q, k and
    v stacked in one count as three.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for (rows, columns), params in shapes.items():
                ahead = torch.stack([self._ahead(p, group["momentum"]) for p in params])
                stacked = 3 if rows == 3 * columns else 1
                moves = orthogonal(ahead.view(-1, rows // stacked, columns)).view_as(ahead)
                for p, move in zip(params, moves, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move, alpha=group["lr"])

    def _ahead(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum."""
        if p.grad is None:
            raise RuntimeError(
                f"Muon needs a gradient for each of its matrices; one of shape {tuple(p.shape)} has none"
            )
        mean = self.state[p].setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices `(n, a, b)` near 1 (0.7 to 1.2) by five Newton-Schulz steps."""
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x if wide else x.mT


class Optimizers:
    """What takes the steps of a training: warm-up over 8 % of the steps, then a cosine to nothing.

    Args:
        model: its parameters with a gradient are trained.
        peak: the highest rate of AdamW.
        steps: how many there will be.
        decay: the weight decay of what has more than one dimension.
        layers: a matrix with this in its name is Muon's; None: AdamW has all.
        again: the model was trained before; 0.6 times the rates.
    """

    def __init__(
        self, model: nn.Module, peak: float, steps: int, decay: float, layers: str | None, again: bool
    ) -> None:
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for name, p in weights.items() if p.ndim == 2 and layers is not None and layers in name]
        others = [p for p in weights.values() if not any(p is matrix for matrix in matrices)]
        rate = 0.6 if again else 1.0
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rates: list[tuple[Optimizer, float]] = [
            (AdamW(groups, peak * rate, betas=(0.9, 0.98), fused=True), peak * rate)
        ]
        if matrices:
            rates.append((Muon(matrices, MUON_RATE * rate, weight_decay=decay), MUON_RATE * rate))
        self.weights = list(weights.values())
        self.optimizers = [optimizer for optimizer, _ in rates]
        self.schedules: list[LRScheduler] = [
            OneCycleLR(optimizer, high, total_steps=steps, pct_start=0.08, cycle_momentum=False)
            for optimizer, high in rates
        ]

    def step(self) -> None:
        """Clip the gradients, take a step, forget them."""
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
