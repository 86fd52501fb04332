"""The object classes of the demo world: twelve families of shapes that look alike, each shape a few polygons.

A shape is a list of layers `(ink, polygon)`: ink 1 fills, ink 0 cuts out again, later layers over earlier ones; polygons are
`(k, 2)` points in [-1, 1]², y upwards. The six members of a family share visual features: one or more are in-distribution
classes (ID), some are near-OOD, the rest are fillers that appear in no stream.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

Layer = tuple[int, np.ndarray]


def _ngon(
    n: int, rx: float = 1.0, ry: float | None = None, x: float = 0.0, y: float = 0.0, start: float = 90.0
) -> np.ndarray:
    """Regular n-gon, or with many corners an ellipse."""
    angle = np.deg2rad(start) + 2 * math.pi * np.arange(n) / n
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], 1)


def _oval(rx: float, ry: float | None = None, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return _ngon(28, rx, ry, x, y)


def _star(n: int, inner: float, start: float = 90.0) -> np.ndarray:
    angle = np.deg2rad(start) + math.pi * np.arange(2 * n) / n
    radius = np.where(np.arange(2 * n) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _poly(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


def _bar(angle: float, width: float, length: float = 1.0, inner: float = -1.0) -> np.ndarray:
    """A bar through the middle (or from radius `inner`) at an angle in degrees."""
    a = math.radians(angle)
    along, across = np.array([math.cos(a), math.sin(a)]), np.array([-math.sin(a), math.cos(a)]) * width
    return np.stack(
        [inner * along - across, length * along - across, length * along + across, inner * along + across]
    )


def _heart(flip: float = 1.0) -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    y = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.5) / 15.5
    return np.stack([np.sin(t) ** 3, flip * y], 1)


SHAPES: dict[str, list[Layer]] = {
    # many-sided
    "circle": [(1, _oval(1.0))],
    "hexagon": [(1, _ngon(6))],
    "octagon": [(1, _ngon(8, start=22.5))],
    "heptagon": [(1, _ngon(7))],
    "oval": [(1, _oval(1.0, 0.62))],
    "pentagon": [(1, _ngon(5))],
    # few-sided
    "square": [(1, _box(-0.8, -0.8, 0.8, 0.8))],
    "triangle": [(1, _poly((0, 1), (0.95, -0.75), (-0.95, -0.75)))],
    "rhombus": [(1, _poly((0, 1), (0.62, 0), (0, -1), (-0.62, 0)))],
    "kite": [(1, _poly((0, 1), (0.65, 0.4), (0, -1), (-0.65, 0.4)))],
    "trapezoid": [(1, _poly((-0.45, 0.6), (0.45, 0.6), (1, -0.6), (-1, -0.6)))],
    "hourglass": [(1, _poly((-0.75, 1), (0.75, 1), (0.08, 0), (0.75, -1), (-0.75, -1), (-0.08, 0)))],
    # rays
    "star": [(1, _star(5, 0.4))],
    "cross": [(1, _bar(0, 0.3)), (1, _bar(90, 0.3))],
    "hexagram": [(1, _star(6, 0.58))],
    "asterisk": [(1, _bar(a, 0.16)) for a in (30, 90, 150)],
    "sparkle": [(1, _star(4, 0.3))],
    "gear": [(1, _oval(0.72)), *[(1, _bar(a, 0.17)) for a in (0, 45, 90, 135)], (0, _oval(0.3))],
    # rounded with a point
    "heart": [(1, _heart())],
    "leaf": [
        (
            1,
            _poly(
                (0, 1),
                (0.4, 0.65),
                (0.55, 0.15),
                (0.4, -0.35),
                (0.06, -0.65),
                (0.06, -1),
                (-0.06, -1),
                (-0.06, -0.65),
                (-0.4, -0.35),
                (-0.55, 0.15),
                (-0.4, 0.65),
            ),
        )
    ],
    "spade": [(1, _heart(-1.0) * (0.95, 0.8) + (0, 0.2)), (1, _poly((0, -0.2), (0.4, -1), (-0.4, -1)))],
    "acorn": [
        (1, _oval(0.55, 0.8, 0, -0.2)),
        (1, _oval(0.75, 0.35, 0, 0.3)),
        (1, _box(-0.1, 0.5, 0.1, 1)),
        (0, _box(-0.8, -0.02, 0.8, 0.07)),
    ],
    "drop": [(1, _oval(0.62, 0.62, 0, -0.38)), (1, _poly((0, 1), (0.56, -0.12), (-0.56, -0.12)))],
    "pear": [(1, _oval(0.72, 0.62, 0, -0.38)), (1, _oval(0.42, 0.6, 0, 0.28)), (1, _bar(75, 0.06, 1.0, 0.6))],
    # pointing
    "arrow": [(1, _box(-1, -0.2, 0.25, 0.2)), (1, _poly((0.15, 0.65), (1, 0), (0.15, -0.65)))],
    "flag": [(1, _box(-0.75, -1, -0.58, 1)), (1, _box(-0.6, 0.05, 0.8, 0.95))],
    "chevron": [(1, _poly((-0.7, 0.9), (0.0, 0.9), (0.7, 0), (0.0, -0.9), (-0.7, -0.9), (0, 0)))],
    "dart": [(1, _poly((-0.9, 0.75), (1, 0), (-0.9, -0.75), (-0.35, 0)))],
    "pennant": [(1, _box(-0.75, -1, -0.58, 1)), (1, _poly((-0.6, 0.95), (0.85, 0.5), (-0.6, 0.05)))],
    "bolt": [
        (1, _poly((0.15, 1), (-0.6, -0.1), (-0.05, -0.1), (-0.3, -1), (0.6, 0.2), (0.05, 0.2), (0.5, 1)))
    ],
    # hollow and curved
    "ring": [(1, _oval(0.95)), (0, _oval(0.55))],
    "crescent": [(1, _oval(0.95)), (0, _oval(0.8, 0.8, 0.45, 0.1))],
    "horseshoe": [
        (1, _oval(0.8, 0.95)),
        (0, _oval(0.42, 0.55)),
        (0, _box(-0.42, -1, 0.42, 0)),
        (1, _box(-0.8, -0.95, -0.42, 0)),
        (1, _box(0.42, -0.95, 0.8, 0)),
    ],
    "wheel": [(1, _oval(0.95)), (0, _oval(0.72)), *[(1, _bar(a, 0.1, 0.8, -0.8)) for a in (0, 60, 120)]],
    "target": [(1, _oval(0.95)), (0, _oval(0.68)), (1, _oval(0.38))],
    "frame": [(1, _box(-0.85, -0.85, 0.85, 0.85)), (0, _box(-0.48, -0.48, 0.48, 0.48))],
    # buildings
    "house": [
        (1, _box(-0.7, -0.9, 0.7, 0.15)),
        (1, _poly((-0.95, 0.1), (0, 0.95), (0.95, 0.1))),
        (0, _box(-0.18, -0.9, 0.18, -0.3)),
    ],
    "bell": [
        (
            1,
            _poly(
                (-0.8, -0.55),
                (-0.5, -0.2),
                (-0.42, 0.45),
                (-0.15, 0.8),
                (0.15, 0.8),
                (0.42, 0.45),
                (0.5, -0.2),
                (0.8, -0.55),
            ),
        ),
        (1, _oval(0.2, 0.2, 0, -0.7)),
        (1, _oval(0.14, 0.14, 0, 0.86)),
    ],
    "church": [
        (1, _box(-0.2, -0.9, 0.8, -0.1)),
        (1, _poly((-0.3, -0.12), (0.3, 0.35), (0.9, -0.12))),
        (1, _box(-0.65, -0.9, -0.15, 0.3)),
        (1, _poly((-0.72, 0.25), (-0.4, 1), (-0.08, 0.25))),
    ],
    "tent": [(1, _poly((-1, -0.7), (0, 0.8), (1, -0.7))), (0, _poly((-0.3, -0.7), (0, 0.2), (0.3, -0.7)))],
    "tower": [
        (1, _box(-0.4, -1, 0.4, 0.6)),
        (1, _box(-0.55, 0.4, 0.55, 0.7)),
        *[(1, _box(x, 0.6, x + 0.25, 0.98)) for x in (-0.55, -0.125, 0.3)],
        (0, _box(-0.13, -1, 0.13, -0.6)),
    ],
    "crown": [
        (
            1,
            _poly(
                (-0.9, -0.65), (-0.95, 0.6), (-0.45, 0.0), (0, 0.8), (0.45, 0.0), (0.95, 0.6), (0.9, -0.65)
            ),
        )
    ],
    # on the water
    "fish": [
        (1, _oval(0.68, 0.45, 0.25, 0)),
        (1, _poly((-0.3, 0), (-0.98, 0.55), (-0.98, -0.55))),
        (0, _oval(0.09, 0.09, 0.6, 0.12)),
    ],
    "sailboat": [
        (1, _poly((-0.9, -0.5), (0.9, -0.5), (0.55, -0.95), (-0.55, -0.95))),
        (1, _poly((0.05, 0.98), (0.05, -0.35), (0.8, -0.35))),
        (1, _poly((-0.08, 0.75), (-0.08, -0.35), (-0.65, -0.35))),
    ],
    "whale": [
        (
            1,
            _poly(
                (-0.95, 0.6),
                (-0.75, 0.28),
                (-0.55, 0.6),
                (-0.6, 0.05),
                (-0.1, 0.25),
                (0.45, 0.4),
                (0.95, 0.05),
                (0.95, -0.35),
                (0.6, -0.6),
                (0, -0.6),
                (-0.55, -0.35),
                (-0.75, 0.1),
            ),
        ),
        (1, _bar(75, 0.06, 0.95, 0.4)),
    ],
    "canoe": [(1, _poly((-1, 0.3), (-0.7, 0.05), (0.7, 0.05), (1, 0.3), (0.75, -0.4), (-0.75, -0.4)))],
    "bird": [
        (
            1,
            _poly(
                (-1, 0.45),
                (-0.5, 0.6),
                (0, 0.1),
                (0.5, 0.6),
                (1, 0.45),
                (0.45, 0.25),
                (0, -0.45),
                (-0.45, 0.25),
            ),
        )
    ],
    "submarine": [
        (1, _oval(0.95, 0.38, 0, -0.2)),
        (1, _box(-0.3, 0, 0.2, 0.5)),
        (1, _box(-0.02, 0.4, 0.06, 0.85)),
        (0, _oval(0.11, 0.11, 0.3, -0.2)),
        (0, _oval(0.11, 0.11, -0.3, -0.2)),
    ],
    # plants
    "pine": [
        (1, _poly((0, 1), (0.45, 0.35), (-0.45, 0.35))),
        (1, _poly((0, 0.6), (0.62, -0.15), (-0.62, -0.15))),
        (1, _poly((0, 0.15), (0.8, -0.65), (-0.8, -0.65))),
        (1, _box(-0.13, -1, 0.13, -0.6)),
    ],
    "mushroom": [
        (1, _oval(0.9, 0.75, 0, 0.15)),
        (0, _box(-1, -0.7, 1, 0.1)),
        (1, _box(-0.25, -0.9, 0.25, 0.12)),
    ],
    "flower": [
        *[
            (1, _oval(0.34, 0.34, 0.52 * math.cos(a), 0.35 + 0.52 * math.sin(a)))
            for a in np.arange(5) * 2 * math.pi / 5 + math.pi / 2
        ],
        (0, _oval(0.2, 0.2, 0, 0.35)),
        (1, _box(-0.06, -1, 0.06, 0.1)),
    ],
    "umbrella": [
        (1, _oval(0.95, 0.85, 0, 0.1)),
        (0, _box(-1, -0.8, 1, 0.1)),
        (0, _oval(0.2, 0.18, -0.55, 0.1)),
        (0, _oval(0.2, 0.18, 0, 0.1)),
        (0, _oval(0.2, 0.18, 0.55, 0.1)),
        (1, _box(-0.06, -0.85, 0.06, 0.3)),
        (1, _box(-0.06, -0.95, 0.3, -0.8)),
        (1, _box(0.2, -0.9, 0.32, -0.65)),
    ],
    "palm": [
        (1, _poly((-0.1, -1), (0.14, -1), (0.08, 0.4), (-0.04, 0.4))),
        *[(1, _poly((0, 0.5), (0.95 * s, y), (0.5 * s, y + 0.42))) for s in (-1, 1) for y in (0.0, 0.4)],
    ],
    "clover": [
        *[(1, _oval(0.38, 0.38, x, y)) for x, y in ((-0.38, 0.2), (0.38, 0.2), (0, 0.62))],
        (1, _poly((-0.05, 0.2), (0.05, 0.2), (0.25, -1), (0.1, -1))),
    ],
    # vessels
    "cup": [
        (1, _poly((-0.75, 0.65), (0.45, 0.65), (0.35, -0.75), (-0.65, -0.75))),
        (1, _oval(0.4, 0.4, 0.52, 0.05)),
        (0, _oval(0.22, 0.22, 0.56, 0.05)),
        (1, _poly((-0.75, 0.65), (0.42, 0.65), (0.35, -0.75), (-0.65, -0.75))),
    ],
    "bottle": [
        (1, _box(-0.4, -1, 0.4, 0.2)),
        (1, _poly((-0.4, 0.2), (0.4, 0.2), (0.14, 0.55), (-0.14, 0.55))),
        (1, _box(-0.14, 0.5, 0.14, 1)),
    ],
    "lamp": [
        (1, _poly((-0.35, 0.9), (0.35, 0.9), (0.8, 0.05), (-0.8, 0.05))),
        (1, _box(-0.08, -0.8, 0.08, 0.1)),
        (1, _box(-0.5, -0.98, 0.5, -0.78)),
    ],
    "jug": [
        (
            1,
            _poly(
                (-0.35, 0.95),
                (0.2, 0.7),
                (0.2, 0.35),
                (0.5, -0.2),
                (0.35, -0.9),
                (-0.45, -0.9),
                (-0.6, -0.2),
                (-0.3, 0.35),
                (-0.3, 0.7),
                (-0.6, 0.9),
            ),
        ),
        (
            1,
            _poly(
                (0.15, 0.6),
                (0.8, 0.6),
                (0.8, -0.3),
                (0.4, -0.3),
                (0.4, -0.12),
                (0.62, -0.12),
                (0.62, 0.42),
                (0.15, 0.42),
            ),
        ),
    ],
    "vase": [
        (
            1,
            _poly(
                (-0.4, 0.95),
                (0.4, 0.95),
                (0.18, 0.5),
                (0.62, -0.1),
                (0.3, -0.95),
                (-0.3, -0.95),
                (-0.62, -0.1),
                (-0.18, 0.5),
            ),
        )
    ],
    "candle": [
        (1, _box(-0.28, -0.95, 0.28, 0.3)),
        (1, _box(-0.04, 0.25, 0.04, 0.5)),
        (1, _oval(0.15, 0.27, 0, 0.7)),
        (1, _box(-0.6, -1, 0.6, -0.82)),
    ],
    # tools
    "hammer": [(1, _box(-0.1, -1, 0.12, 0.6)), (1, _box(-0.65, 0.45, 0.65, 0.92))],
    "key": [
        (1, _oval(0.4, 0.4, 0, 0.58)),
        (0, _oval(0.18, 0.18, 0, 0.58)),
        (1, _box(-0.09, -1, 0.09, 0.25)),
        (1, _box(0, -0.95, 0.42, -0.78)),
        (1, _box(0, -0.6, 0.34, -0.44)),
    ],
    "axe": [
        (1, _box(-0.25, -1, -0.06, 0.95)),
        (1, _poly((-0.1, 0.75), (0.35, 0.95), (0.75, 0.95), (0.75, -0.1), (0.35, 0.0), (-0.1, 0.3))),
    ],
    "spoon": [(1, _oval(0.36, 0.48, 0, 0.52)), (1, _box(-0.08, -1, 0.08, 0.15))],
    "fork": [
        (1, _box(-0.09, -1, 0.09, 0.3)),
        (1, _box(-0.42, 0.1, 0.42, 0.32)),
        *[(1, _box(x, 0.2, x + 0.16, 1)) for x in (-0.42, -0.08, 0.26)],
    ],
    "broom": [
        (1, _box(-0.07, -0.3, 0.07, 1)),
        (1, _poly((-0.2, -0.2), (0.2, -0.2), (0.62, -1), (-0.62, -1))),
    ],
    # on wheels
    "car": [
        (
            1,
            _poly(
                (-0.95, -0.4),
                (-0.95, 0.0),
                (-0.55, 0.1),
                (-0.3, 0.5),
                (0.3, 0.5),
                (0.6, 0.1),
                (0.95, 0.0),
                (0.95, -0.4),
            ),
        ),
        (1, _oval(0.25, 0.25, -0.5, -0.45)),
        (1, _oval(0.25, 0.25, 0.5, -0.45)),
        (0, _poly((-0.35, 0.12), (-0.2, 0.38), (0.2, 0.38), (0.38, 0.12))),
    ],
    "truck": [
        (1, _box(-0.95, -0.4, 0.3, 0.65)),
        (1, _poly((0.38, -0.4), (0.38, 0.35), (0.75, 0.35), (0.98, 0.0), (0.98, -0.4))),
        (1, _oval(0.23, 0.23, -0.55, -0.45)),
        (1, _oval(0.23, 0.23, 0.6, -0.45)),
        (0, _box(0.48, 0.02, 0.7, 0.24)),
    ],
    "bus": [
        (1, _box(-0.98, -0.45, 0.98, 0.55)),
        (1, _oval(0.22, 0.22, -0.55, -0.5)),
        (1, _oval(0.22, 0.22, 0.55, -0.5)),
        *[(0, _box(x, 0.08, x + 0.3, 0.38)) for x in (-0.8, -0.38, 0.04, 0.46)],
    ],
    "train": [
        (1, _box(-0.95, -0.45, 0.5, 0.05)),
        (1, _box(0.3, -0.45, 0.95, 0.7)),
        (1, _box(-0.8, 0, -0.5, 0.6)),
        *[(1, _oval(0.2, 0.2, x, -0.5)) for x in (-0.65, -0.1, 0.6)],
        (0, _box(0.46, 0.22, 0.8, 0.5)),
    ],
    "cart": [
        (1, _poly((-0.7, 0.3), (0.9, 0.3), (0.6, -0.35), (-0.45, -0.35))),
        (1, _poly((-1, 0.75), (-0.9, 0.8), (-0.6, 0.2), (-0.72, 0.2))),
        (1, _oval(0.2, 0.2, -0.25, -0.6)),
        (1, _oval(0.2, 0.2, 0.45, -0.6)),
    ],
    "scooter": [
        (1, _box(-0.8, -0.55, 0.6, -0.38)),
        (1, _poly((0.5, -0.5), (0.68, -0.5), (0.5, 0.85), (0.34, 0.85))),
        (1, _box(0.05, 0.72, 0.7, 0.88)),
        (1, _oval(0.22, 0.22, -0.7, -0.65)),
        (1, _oval(0.22, 0.22, 0.65, -0.65)),
    ],
}

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
    """The mask of a shape, (size, size) in [0, 1], over [-1.1, 1.1]², rows downwards; drawn large once and reduced."""
    canvas = Image.new("L", (8 * size, 8 * size))
    pen = ImageDraw.Draw(canvas)
    for ink, polygon in SHAPES[name]:
        pen.polygon(((polygon * (1, -1) / 1.1 + 1) * 4 * size).ravel().tolist(), fill=255 * ink)
    return torch.from_numpy(np.array(canvas.reduce(8))).float() / 255


def stamp(names: list[str], x: Tensor, y: Tensor, size: int) -> Tensor:
    """Masks (n, s, s) of one shape an image, where its own coordinates are `x, y` (n, s, s), y upwards; nothing outside."""
    kinds = {name: stencil(name, size) for name in set(names)}
    masks = torch.stack([kinds[name] for name in names]).unsqueeze(1)
    return F.grid_sample(masks, torch.stack([x, -y], 3) / 1.1, align_corners=False)[:, 0]
