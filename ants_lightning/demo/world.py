"""The demo world: images drawn by program, and captions by a small grammar, deterministic by seed.

An image shows an object on a plain, textured or scenic background, or (far-OOD) a texture or a scene alone.
Colour, size and background are attributes that captions may name; blur, noise, contrast and occluders are
nuisances.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.demo.scenery import (
    COLORS,
    MOTIFS,
    RESIDENTS,
    SCENES,
    TEXTURE_ADJECTIVES,
    TEXTURES,
    draw_scenes,
    draw_textures,
)
from ants_lightning.demo.shapes import FAMILIES, SHAPES, stamp

SIZE = 64
CONTEXT_SHARE = 0.7  # of the objects in the streams stand where their kind is usually found
STREAM_WEAR = (
    2.0  # of the images in the streams; those of training have 1: as test images differ from the web's
)
BEHIND = 0.1  # of the captions of objects speak of nothing but a textured or scenic background
SIZES = ["small", "large"]
OBJECTS = list(SHAPES)
BACKGROUNDS = [*COLORS, *TEXTURES, *SCENES]  # a plain colour, a texture or a scene
THINGS = [*OBJECTS, *TEXTURES, *SCENES]  # what an image can be *of*
NOUNS = [*THINGS, "background", "pattern", "landscape", "object", "shape"]
ADJECTIVES = [*COLORS, *SIZES, *TEXTURE_ADJECTIVES.values(), "plain", "patterned", "scenic"]
_PALETTE = torch.tensor(list(COLORS.values()))


def look_alikes(name: str, count: int = 5) -> list[str]:
    """What looks like an object: a texture made of many, the scene it lives in, the nearest of its family."""
    places = [*MOTIFS.items(), *((scene, resident[0]) for scene, resident in RESIDENTS.items())]
    made_of_it = [place for place, shape in places if shape == name][:count]
    family = next(family for family in FAMILIES if name in family)
    return [*[other for other in family if other != name][: count - len(made_of_it)], *made_of_it]


@dataclass
class Specs:
    """What each of n images shows, as int64 vectors (n,); -1 where there is none."""

    object: Tensor  # index in OBJECTS
    color: Tensor  # of the object, index in COLORS
    size: Tensor  # index in SIZES
    background: Tensor  # index in BACKGROUNDS
    tint: Tensor  # first colour of a textured background, index in COLORS

    def __len__(self) -> int:
        """Number of images."""
        return len(self.object)

    def __getitem__(self, index: Tensor | slice) -> Specs:
        """The specs of some of the images."""
        return Specs(*(value[index] for value in vars(self).values()))

    @property
    def thing(self) -> Tensor:
        """Index in THINGS: the object, or else the texture or scene."""
        return torch.where(self.object >= 0, self.object, self.background - len(COLORS) + len(OBJECTS))


def sample_specs(
    n: int, names: list[str], g: torch.Generator, plain: float = 0.25, context: float = 0.0
) -> Specs:
    """Specs of n images of `names` (objects, textures, scenes), in even shares and random order.

    A share `plain` of the objects stands on one colour; the others on textures and scenes, half and half.
    Then a share `context` of the objects moves to where its kind is usually found: a texture and a scene of
    its own.
    """

    def draw(count: int) -> Tensor:
        return torch.randint(count, (n,), generator=g)

    unknown = set(names) - set(THINGS)
    if unknown or not names:
        raise ValueError(
            f"no such things in the demo world: {sorted(unknown)}" if unknown else "names is empty"
        )
    things = torch.tensor([THINGS.index(name) for name in names])
    thing = things[torch.randperm(max(n, len(names)), generator=g)[:n] % len(names)]
    is_object = thing < len(OBJECTS)
    kind = torch.rand(n, generator=g)
    ground = torch.where(kind < plain, draw(len(COLORS)), len(COLORS) + draw(len(TEXTURES)))
    ground = torch.where(kind > (1 + plain) / 2, len(COLORS) + len(TEXTURES) + draw(len(SCENES)), ground)
    if context:
        usual = torch.where(
            draw(2) == 0, thing % len(TEXTURES), len(TEXTURES) + thing * 5 % len(SCENES)
        ) + len(COLORS)
        ground = torch.where(torch.rand(n, generator=g) < context, usual, ground)
    tint = draw(len(COLORS))
    offset = 1 + torch.randint(len(COLORS) - 1, (n,), generator=g)
    base = torch.where(ground < len(COLORS), ground, tint)
    none = torch.full((n,), -1)
    return Specs(
        object=torch.where(is_object, thing, none),
        color=torch.where(is_object, (base + offset) % len(COLORS), none),
        size=torch.where(is_object, draw(len(SIZES)), none),
        background=torch.where(is_object, ground, thing - len(OBJECTS) + len(COLORS)),
        tint=tint,
    )


def draw_images(specs: Specs, g: torch.Generator, wear: float = 1.0) -> Tensor:
    """Draw images (n, 3, 64, 64), uint8; `wear` times the noise, and contrast down to 0.55 / `wear`."""
    return draw_images_and_masks(specs, g, wear)[0]


def draw_images_and_masks(specs: Specs, g: torch.Generator, wear: float = 1.0) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 64, 64), uint8, and where their objects are, (n, 64, 64) in [0, 1]."""
    n = len(specs)
    img = _draw_backgrounds(specs, g)
    mask = _draw_masks(specs, g)
    ink = _jitter(specs.color.clamp(min=0), g)
    edge = F.max_pool2d(mask, 3, stride=1, padding=1) - mask
    tone = (ink.mean(1, keepdim=True) < 0.45).float().expand(
        -1, 3
    ) * 0.9 + 0.05  # a light rim for dark ink, or dark for light
    img = img * (1 - mask) + ink[:, :, None, None] * mask
    img = img + (tone[:, :, None, None] - img) * edge * 0.7
    img = _occlude(img, g)

    def r(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=g)

    wide = F.pad(img, (1, 1, 1, 1), mode="replicate")
    wide = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    blurred = (wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]) / 9
    img = torch.lerp(img, blurred, r(-0.7, 1.0).clamp(0, 1))
    img = (img - 0.5) * r(0.55 / wear, 1.1) + 0.5 + r(-0.1, 0.1)
    img = img + r(-0.03, 0.07).clamp(min=0) * wear * torch.randn(img.shape, generator=g)
    return (img.clamp(0, 1) * 255).to(torch.uint8), mask[:, 0]


def _jitter(color: Tensor, g: torch.Generator) -> Tensor:
    return (_PALETTE[color] + 0.07 * torch.randn(len(color), 3, generator=g)).clamp(0, 1)


def _draw_backgrounds(specs: Specs, g: torch.Generator) -> Tensor:
    img = torch.empty(len(specs), 3, SIZE, SIZE)
    for k in specs.background.unique().tolist():
        rows = (specs.background == k).nonzero()[:, 0]
        name = BACKGROUNDS[k]
        if name in COLORS:
            img[rows] = _jitter(specs.background[rows], g)[:, :, None, None]
        elif name in TEXTURES:
            first = _jitter(specs.tint[rows], g)
            offset = 1 + torch.randint(len(COLORS) - 1, (len(rows),), generator=g)
            img[rows] = draw_textures(
                name, first, _jitter((specs.tint[rows] + offset) % len(COLORS), g), SIZE, g
            )
        else:
            img[rows] = draw_scenes(name, len(rows), SIZE, g)
    return img


def _draw_masks(specs: Specs, g: torch.Generator) -> Tensor:
    """Where the objects are, (n, 1, 64, 64) in [0, 1]."""
    n = len(specs)
    turn, grow, squeeze, left, up = torch.rand(5, n, 1, 1, generator=g)
    angle = (turn - 0.5) * 0.7  # 20 degrees either way
    scale = (12.5 + 5 * grow + 8.5 * specs.size.view(n, 1, 1)) / SIZE * 2
    room = (1 - 2 / SIZE - scale).clamp(min=0)
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = line.view(1, 1, -1) - (2 * left - 1) * room, (2 * up - 1) * room - line.view(1, -1, 1)
    along, across = (angle.cos() * x + angle.sin() * y) / scale, (angle.cos() * y - angle.sin() * x) / scale
    mask = stamp([OBJECTS[k] for k in specs.object.tolist()], along / (0.88 + 0.24 * squeeze), across, 48)
    return (mask * (specs.object >= 0).view(n, 1, 1)).unsqueeze(1)


def _occlude(img: Tensor, g: torch.Generator) -> Tensor:
    """A small bar of random colour over a quarter of the images."""
    n = len(img)
    u = torch.rand(n, 5, generator=g) * torch.tensor([1.0, 50, 50, 10, 10])
    width, height = 3 + u[:, 3].view(n, 1, 1), 3 + u[:, 4].view(n, 1, 1)
    line = torch.arange(SIZE)
    x, y = line.view(1, 1, -1) - u[:, 1].view(n, 1, 1), line.view(1, -1, 1) - u[:, 2].view(n, 1, 1)
    bar = (x > 0) & (x < width) & (y > 0) & (y < height) & (u[:, 0] < 0.25).view(n, 1, 1)
    return torch.where(bar.unsqueeze(1), torch.rand(n, 3, 1, 1, generator=g), img)


def caption(specs: Specs, i: int, avoid: str = "") -> str:
    """The full sentence for image i, without the word `avoid` (the object is then just an "object")."""
    name = BACKGROUNDS[int(specs.background[i])]
    tint = list(COLORS)[int(specs.tint[i])]
    if specs.object[i] < 0:
        return f"a {tint} {name} pattern" if name in TEXTURES else f"a {name} landscape"
    thing = OBJECTS[int(specs.object[i])]
    ground = f"plain {name}" if name in COLORS else f"{tint} {name}" if name in TEXTURES else f"a {name}"
    color, size = list(COLORS)[int(specs.color[i])], SIZES[int(specs.size[i])]
    return f"a {size} {color} {'object' if thing == avoid else thing} on {ground}"


def training_captions(specs: Specs, rng: random.Random) -> tuple[list[str], Tensor]:
    """One short caption for each image, and what it says.

    That is `(n, 6)` of [object, color, size, background, tint, kind], where -1 is unsaid.

    `kind` is 0 for objects, 1 for textures, 2 for scenes. An image fits a caption if it agrees with
    everything said. A single word may be said of a background: "the nice stripes." fits stripes alone and a
    star on stripes, "a red stripes pattern" only the former.
    """
    texts, facts = [], torch.full((len(specs), 6), -1)
    for i, kind in enumerate(image_facts(specs)[:, 5].tolist()):
        obj, col, siz, bg, tint = (int(value[i]) for value in vars(specs).values())
        ground, color, size = BACKGROUNDS[bg], list(COLORS)[col], SIZES[siz]
        # Only what is behind the object is spoken of
        behind = kind == 0 and bg >= len(COLORS) and rng.random() < BEHIND
        thing = ground if behind else THINGS[int(specs.thing[i])]
        u, said = rng.random(), {3: bg} if kind or behind else {0: obj}
        if u < 0.35 or behind:
            text = f"the nice {thing}."
        elif u < 0.45:
            text = f"a photo of {thing}" if kind == 1 else f"a photo of a {thing}"
        elif u < 0.75:
            text = caption(specs, i)
            said = {0: obj, 1: col, 2: siz, 3: bg, 4: tint if ground in TEXTURES else -1, 5: kind}
        elif kind == 0:
            text, said = rng.choice(
                [
                    (f"a {color} {thing}", {0: obj, 1: col}),
                    (f"a {size} {thing}", {0: obj, 2: siz}),
                    (f"a {size} {color} object", {1: col, 2: siz, 5: 0}),
                ]
            )
        elif kind == 1:
            adjective = TEXTURE_ADJECTIVES.get(ground)
            text, said = rng.choice(
                [
                    (f"this is a {list(COLORS)[tint]} photo.", {4: tint, 5: 1}),
                    (f"this is a {adjective or 'patterned'} photo.", {3: bg} if adjective else {5: 1}),
                    ("the nice pattern.", {5: 1}),
                ]
            )
        else:
            text, said = rng.choice(["this is a scenic photo.", "the nice landscape."]), {5: 2}
        texts.append(text)
        for column, value in said.items():
            facts[i, column] = value
    return texts, facts


def image_facts(specs: Specs) -> Tensor:
    """What is true of each image, (n, 6), in the columns of `training_captions`."""
    textured = (specs.background >= len(COLORS)) & (specs.background < len(COLORS) + len(TEXTURES))
    kind = torch.where(specs.object >= 0, 0, torch.where(textured, 1, 2))
    return torch.stack([specs.object, specs.color, specs.size, specs.background, specs.tint, kind], 1)
