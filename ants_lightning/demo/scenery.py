"""Textures and scenes of the demo world: the backgrounds of objects and, with no object, the far-OOD images.

Each painter works on a whole batch. Textures take coordinates `u, v` (n, s, s), already rotated and scaled to
a random frequency, and return how much of the second colour shows, in [0, 1]; some are tiled from the shape
of an object. Scenes are drawn in `x, y` in [-1, 1] (y upwards), with up to three small residents: sails on
the sea, pines in the forest. So far-OOD images hold what looks like ID objects, as photographs of textures
and places do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.demo.shapes import stamp

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.97, 0.55, 0.08),
    "yellow": (0.96, 0.88, 0.16),
    "green": (0.13, 0.62, 0.2),
    "blue": (0.12, 0.3, 0.86),
    "purple": (0.5, 0.15, 0.66),
    "pink": (0.98, 0.55, 0.74),
    "brown": (0.46, 0.28, 0.13),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
}


def noise(n: int, cells: int, size: int, g: torch.Generator) -> Tensor:
    """Smooth random fields in [0, 1], (n, size, size), with about `cells` bumps a side."""
    field = torch.rand(n, 1, cells, cells, generator=g)
    return F.interpolate(field, size=(size, size), mode="bilinear", align_corners=True)[:, 0]


def _soft(x: Tensor, sharpness: float = 4.0) -> Tensor:
    return torch.sigmoid(sharpness * x)


def _triangle_wave(x: Tensor) -> Tensor:
    return 2 * (x / (2 * math.pi) - torch.floor(x / (2 * math.pi) + 0.5)).abs() * math.pi


def _bricks(u: Tensor, v: Tensor, _: Tensor) -> Tensor:
    row = torch.floor(v / math.pi)
    shifted = u / 2 + (row % 2) * (math.pi / 2)
    return torch.maximum(
        _soft(torch.sin(v).abs().neg() + 0.25, 12), _soft(torch.sin(shifted).abs().neg() + 0.13, 24)
    )


def _tiles(shape: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A pattern of many of a shape, each second row shifted."""

    def paint(u: Tensor, v: Tensor, _: Tensor) -> Tensor:
        row = torch.floor(v / (2 * math.pi))
        column = u / (2 * math.pi) + row % 2 / 2
        x, y = column - torch.floor(column), v / (2 * math.pi) - row
        return stamp([shape] * len(u), (2 * x - 1) * 1.2, (2 * y - 1) * 1.2, 24)

    return paint


# Textures that are many of a shape.
MOTIFS = {
    "dots": "circle",
    "checks": "square",
    "honeycomb": "hexagon",
    "lattice": "cross",
    "chainmail": "ring",
    "scallops": "crescent",
    "confetti": "triangle",
    "twinkles": "star",
    "valentine": "heart",
    "foliage": "leaf",
}
TEXTURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "stripes": lambda u, v, r: _soft(torch.sin(u)),
    "waves": lambda u, v, r: _soft(torch.sin(u + 1.6 * torch.sin(v * 0.8))),
    "bricks": _bricks,
    "zigzag": lambda u, v, r: _soft(torch.sin(u + 1.3 * _triangle_wave(v)), 8),
    "ripples": lambda u, v, r: _soft(torch.sin(torch.hypot(u, v))),
    "marble": lambda u, v, r: torch.sin(0.5 * u + 9 * r).abs().sqrt(),
    "plaid": lambda u, v, r: 0.5 * _soft(torch.sin(u), 10) + 0.5 * _soft(torch.sin(v), 10),
    "blotches": lambda u, v, r: _soft(r - 0.5, 25),
    **{name: _tiles(shape) for name, shape in MOTIFS.items()},
}
# The adjective of a texture, as "striped" is of "stripes": a second word for the same look.
TEXTURE_ADJECTIVES = {
    "stripes": "striped",
    "checks": "checkered",
    "dots": "dotted",
    "waves": "wavy",
    "bricks": "bricked",
    "marble": "marbled",
    "scallops": "scalloped",
    "blotches": "blotchy",
    "foliage": "leafy",
    "twinkles": "starry",
}


def draw_textures(kind: str, first: Tensor, second: Tensor, size: int, g: torch.Generator) -> Tensor:
    """Images of one texture between two colours (n, 3), as (n, 3, size, size) in [0, 1]."""
    n = len(first)
    angle, freq = torch.rand(n, 1, 1, generator=g) * math.pi, 7 + 11 * torch.rand(n, 1, 1, generator=g)
    shift = torch.rand(2, n, 1, 1, generator=g) * (0.8 if kind in ("ripples", "whorls") else 6)
    line = torch.linspace(-1, 1, size)
    x, y = line[None, None, :], line[None, :, None]
    u = freq * (angle.cos() * x - angle.sin() * y) + shift[0]
    v = freq * (angle.sin() * x + angle.cos() * y) + shift[1]
    mix = TEXTURES[kind](u, v, noise(n, 7, size, g)).unsqueeze(1)
    return first[:, :, None, None] * (1 - mix) + second[:, :, None, None] * mix


def _rgb(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1)


def _over(below: Tensor, color: Tensor, mask: Tensor) -> Tensor:
    return below + (color - below) * mask.unsqueeze(1)


SKY = _rgb(0.55, 0.78, 0.95)
GRASS = _rgb(0.3, 0.6, 0.22)
SAND = _rgb(0.88, 0.76, 0.5)
WATER = _rgb(0.1, 0.35, 0.65)


def draw_scenes(kind: str, n: int, size: int, g: torch.Generator) -> Tensor:
    """Images of one scene, as (n, 3, size, size) in [0, 1]; horizon, phase, light and details vary."""

    def r(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=g)

    line = torch.linspace(-1, 1, size)
    x, y = line[None, None, :].expand(n, size, size), (-line)[None, :, None].expand(n, size, size)
    fine, coarse = noise(n, 24, size, g), noise(n, 6, size, g)
    horizon, phase = r(-0.25, 0.35), r(0, 6.3)
    below = _soft(horizon - y, 40)
    img = SKY.expand(n, 3, size, size)
    if kind == "desert":
        for k, tone in enumerate((0.94, 0.84, 0.72)):
            dune = horizon - 0.35 * k + 0.16 * torch.sin((2.2 + k) * x + phase + 2 * k)
            img = _over(img, SAND * tone, _soft(dune - y, 40))
    elif kind == "sea":
        img = _over(img, WATER, below)
        img = _over(
            img, _rgb(0.8, 0.9, 1.0), below * _soft(torch.sin(26 * y + 5 * coarse + 3 * x) + fine - 1.45, 12)
        )
    elif kind == "forest":
        img = _over(_rgb(0.12, 0.3, 0.12).expand_as(img), GRASS, coarse)
        img = _over(
            img, _rgb(0.2, 0.12, 0.06), _soft(torch.sin(15 * x + phase + 2 * torch.sin(3 * x)) - 0.55, 20)
        )
    elif kind == "mountains":
        peak = (
            horizon
            + 0.55
            - 0.5 * _triangle_wave(3.1 * x + phase) / 1.6
            - 0.18 * _triangle_wave(7 * x + phase)
        )
        img = _over(img, _rgb(0.42, 0.42, 0.47), _soft(peak - y, 40))
        img = _over(
            img, _rgb(0.97, 0.97, 1.0), _soft(peak - y, 40) * _soft(y - horizon - 0.12 - 0.2 * fine, 30)
        )
        img = _over(img, GRASS * 0.8, _soft(horizon - 0.45 - y, 40))
    elif kind == "city":
        tops = (
            horizon - 0.2 + torch.rand(n, 1, 9, generator=g).repeat_interleave(size // 9 + 1, 2)[:, :, :size]
        )
        img = _over(img, _rgb(0.36, 0.37, 0.42), _soft(tops - y, 40))
        windows = (torch.sin(38 * x) > 0.2) & (torch.sin(34 * y + phase) > 0.1)
        img = _over(img, _rgb(0.95, 0.87, 0.5), windows * _soft(tops - 0.08 - y, 40))
    elif kind == "night":
        img = _over(_rgb(0.03, 0.04, 0.14).expand_as(img), _rgb(1, 1, 0.9), _soft(fine - 0.93, 70))
        img = _over(img, _rgb(0.0, 0.02, 0.03), _soft(horizon - 0.5 + 0.2 * torch.sin(4 * x + phase) - y, 40))
    elif kind == "sunset":
        glow = ((y + 1) / 2).unsqueeze(1)
        img = _rgb(0.99, 0.55, 0.2) * (1 - glow) + _rgb(0.45, 0.16, 0.4) * glow
        img = _over(img, _rgb(1.0, 0.9, 0.5), _soft(0.3 - torch.hypot(x - r(-0.5, 0.5), y - horizon), 40))
        img = _over(img, _rgb(0.2, 0.08, 0.12), below)
    elif kind == "snow":
        drift = horizon + 0.1 * torch.sin(3 * x + phase)
        img = _over(_rgb(0.72, 0.78, 0.86).expand_as(img), _rgb(0.96, 0.97, 1.0), _soft(drift - y, 30))
        img = _over(img, _rgb(1, 1, 1), _soft(fine - 0.8, 60))
    elif kind == "meadow":
        img = _over(img, GRASS, below)
        img = _over(img, _rgb(0.95, 0.4, 0.55), below * _soft(fine - 0.82, 60))
        img = _over(img, _rgb(0.98, 0.9, 0.3), below * _soft(0.16 - fine, 60))
    elif kind == "road":
        img = _over(img, GRASS * 0.85, below)
        width, bend = (horizon - y) * 0.75 + 0.05, r(-0.4, 0.4)
        middle = x - bend * (horizon - y)
        img = _over(img, _rgb(0.3, 0.3, 0.32), below * _soft(width - middle.abs(), 40))
        img = _over(
            img, _rgb(1, 1, 1), below * _soft(0.05 - middle.abs(), 60) * (torch.sin(16 * y + phase) > 0)
        )
    elif kind == "island":
        img = _over(img, WATER * 1.15, below)
        spot = (x - r(-0.4, 0.4)) ** 2 / 0.4 + (y - horizon) ** 2 / 0.12
        img = _over(img, SAND, _soft(1 - spot, 15))
        img = _over(img, GRASS * 0.8, _soft(0.45 - spot, 15) * _soft(y - horizon, 40))
    elif kind == "cave":
        hole = torch.hypot(x - r(-0.25, 0.25), y + r(-0.25, 0.25)) + 0.5 * coarse
        img = _over(_rgb(0.85, 0.8, 0.62).expand_as(img), _rgb(0.16, 0.12, 0.1), _soft(hole - 0.75, 14))
        img = img * (0.8 + 0.4 * fine.unsqueeze(1))
    else:
        raise ValueError(f"unknown scene {kind!r}; one of {SCENES}")
    shape, color, low, high = RESIDENTS[kind]
    for _ in range(3):
        radius, middle, height = r(0.17, 0.36), r(-0.9, 0.9), r(low, high)
        mask = stamp([shape] * n, (x - middle) / radius, (y - height) / radius, 24) * (r(0, 1) < 0.6)
        img = _over(img, (_rgb(*color) * r(0.8, 1.2).unsqueeze(1)).clamp(0, 1), mask)
    return (img * r(0.8, 1.1).unsqueeze(1)).clamp(0, 1)


# Who lives in a scene: a shape, its colour, and the heights between which it stands.
RESIDENTS: dict[str, tuple[str, tuple[float, float, float], float, float]] = {
    "desert": ("triangle", (0.66, 0.52, 0.3), -0.3, 0.3),
    "sea": ("sailboat", (0.95, 0.95, 0.9), -0.6, 0.2),
    "forest": ("pine", (0.1, 0.36, 0.16), -0.7, 0.3),
    "mountains": ("tent", (0.85, 0.3, 0.15), -0.8, -0.4),
    "city": ("flag", (0.85, 0.15, 0.15), -0.2, 0.7),
    "night": ("crescent", (0.95, 0.93, 0.75), 0.1, 0.8),
    "sunset": ("bird", (0.15, 0.08, 0.1), 0.1, 0.8),
    "snow": ("house", (0.5, 0.25, 0.15), -0.5, 0.0),
    "meadow": ("flower", (0.95, 0.45, 0.65), -0.8, -0.1),
    "road": ("car", (0.2, 0.3, 0.75), -0.7, 0.0),
    "island": ("palm", (0.2, 0.45, 0.15), -0.1, 0.4),
    "cave": ("mushroom", (0.9, 0.8, 0.65), -0.8, -0.2),
}
SCENES = list(RESIDENTS)
