"""The object classes of the demo world: twelve families of shapes that look alike, each shape a few polygons.

`shapes.txt` has them as data. The six members of a family share visual features: one or more are
in-distribution classes (ID), some are near-OOD, the rest are fillers that appear in no stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

Layer = tuple[int, np.ndarray]  # ink (1 fills, 0 cuts out), and a polygon (k, 2) in [-1, 1]², y upwards


def _poly(*numbers: float) -> np.ndarray:
    return np.array(numbers).reshape(-1, 2)


def _box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return _poly(left, bottom, right, bottom, right, top, left, top)


def _ngon(
    n: float, start: float = 90.0, rx: float = 1.0, ry: float = 1.0, x: float = 0.0, y: float = 0.0
) -> np.ndarray:
    angle = np.deg2rad(start) + 2 * math.pi * np.arange(int(n)) / int(n)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _oval(rx: float, ry: float | None = None, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return _ngon(28, 90.0, rx, rx if ry is None else ry, x, y)


def _star(n: float, inner: float) -> np.ndarray:
    angle = np.deg2rad(90.0) + math.pi * np.arange(2 * int(n)) / int(n)
    radius = np.where(np.arange(2 * int(n)) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _bar(angle: float, width: float, to: float = 1.0, start: float = -1.0) -> np.ndarray:
    a = math.radians(angle)
    along, across = np.array([math.cos(a), math.sin(a)]), np.array([-math.sin(a), math.cos(a)]) * width
    return np.stack(
        [start * along - across, to * along - across, to * along + across, start * along + across]
    )


def _heart(flip: float, sx: float = 1.0, sy: float = 1.0, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    up = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.5) / 15.5
    return np.stack([np.sin(t) ** 3, flip * up], 1) * (sx, sy) + (x, y)


_POLYGONS: dict[str, Callable[..., np.ndarray]] = {
    "poly": _poly,
    "box": _box,
    "ngon": _ngon,
    "oval": _oval,
    "star": _star,
    "bar": _bar,
    "heart": _heart,
}


def _read(text: str) -> dict[str, list[Layer]]:
    """The shapes of `shapes.txt`, in order; its first lines tell how they are written."""
    shapes: dict[str, list[Layer]] = {}
    for line in text.splitlines():
        if line.startswith("  "):
            ink, kind, *numbers = line.split()
            shapes[next(reversed(shapes))].append((int(ink == "+"), _POLYGONS[kind](*map(float, numbers))))
        elif line and not line.startswith("#"):
            shapes[line] = []
    return shapes


SHAPES = _read(Path(__file__).with_name("shapes.txt").read_text(encoding="utf-8"))
FAMILIES: list[list[str]] = [list(SHAPES)[i : i + 6] for i in range(0, len(SHAPES), 6)]

ID_CLASSES = [
    "circle",
    "hexagon",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "leaf",
    "arrow",
    "flag",
    "ring",
    "crescent",
    "house",
    "bell",
    "fish",
    "sailboat",
    "pine",
    "mushroom",
    "cup",
    "bottle",
    "hammer",
    "key",
    "car",
    "flower",
]
NEAR_CLASSES = [
    "octagon",
    "heptagon",
    "oval",
    "rhombus",
    "hexagram",
    "asterisk",
    "spade",
    "acorn",
    "chevron",
    "horseshoe",
    "church",
    "whale",
    "umbrella",
    "jug",
    "axe",
    "truck",
]


@cache
def stencil(name: str, size: int) -> Tensor:
    """The mask of a shape, `(size, size)` in [0, 1], over [-1.1, 1.1]², rows downwards.

    It is drawn large, once, and reduced.
    """
    canvas = Image.new("L", (8 * size, 8 * size))
    pen = ImageDraw.Draw(canvas)
    for ink, polygon in SHAPES[name]:
        pen.polygon(((polygon * (1, -1) / 1.1 + 1) * 4 * size).ravel().tolist(), fill=255 * ink)
    return torch.from_numpy(np.array(canvas.reduce(8))).float() / 255


def stamp(names: list[str], x: Tensor, y: Tensor, size: int) -> Tensor:
    """Masks `(n, s, s)` of one shape for each image, in its own coordinates `x, y` `(n, s, s)`, y upwards."""
    kinds = {name: stencil(name, size) for name in set(names)}
    masks = torch.stack([kinds[name] for name in names]).unsqueeze(1)
    return F.grid_sample(masks, torch.stack([x, -y], 3) / 1.1, align_corners=False)[:, 0]
