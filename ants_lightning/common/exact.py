"""Buffers that a change of precision leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose own buffers move between devices, but keep their dtype.

    Features are float32 and are compared in float32. Lightning's `bf16-true`, `16-true` and `64-true` cast
    whole modules, which is meant for the towers that make the features.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if buffer is not None and after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self
