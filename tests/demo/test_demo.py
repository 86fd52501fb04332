"""The embedded world: drawn the same every time, honest, and known to the shipped models."""

import math
import random

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from ants_lightning import demo
from ants_lightning.demo.scenery import MOTIFS, RESIDENTS, SCENES, TEXTURE_ADJECTIVES, TEXTURES
from ants_lightning.demo.shapes import FAMILIES, ID_CLASSES, NEAR_CLASSES, SHAPES, stamp, stencil
from ants_lightning.demo.train.clip import name_accuracy
from ants_lightning.demo.world import (
    ADJECTIVES,
    BACKGROUNDS,
    NOUNS,
    OBJECTS,
    SIZES,
    THINGS,
    caption,
    draw_images,
    image_facts,
    look_alikes,
    sample_specs,
    training_captions,
)
from ants_lightning.mllm import TransformersMLLM


def test_the_world_is_as_described():
    assert (len(ID_CLASSES), len(NEAR_CLASSES), len(SHAPES)) == (24, 16, 72)
    assert not set(ID_CLASSES) & set(NEAR_CLASSES) and set(ID_CLASSES + NEAR_CLASSES) < set(SHAPES)
    assert all(len(family) == 6 and set(family) & set(ID_CLASSES) for family in FAMILIES)


def test_drawing_is_deterministic_by_seed():
    def draw(seed):
        g = torch.Generator().manual_seed(seed)
        return draw_images(sample_specs(40, THINGS, g), g)

    assert (
        draw(3).shape == (40, 3, 64, 64)
        and torch.equal(draw(3), draw(3))
        and not torch.equal(draw(3), draw(4))
    )


@pytest.mark.parametrize("n", [40, 200])
def test_every_thing_is_drawn_in_even_shares(n):
    counts = torch.zeros(len(THINGS))
    for seed in range(50):
        counts += sample_specs(n, THINGS, torch.Generator().manual_seed(seed)).thing.bincount(
            minlength=len(THINGS)
        )
    assert counts.min() > 0.4 * counts.mean()


def test_a_stamp_is_the_shape_where_its_coordinates_say():
    line = torch.linspace(-1.3, 1.3, 14)  # steps of 0.2, none on an edge
    x, y = line.view(1, 1, -1).expand(1, 14, 14), -line.view(1, -1, 1).expand(1, 14, 14)  # y upwards
    square = stamp(["square"], x, y, 48)[0]
    assert torch.equal(square.round() == 1, ((x.abs() < 0.8) & (y.abs() < 0.8))[0])
    triangle = stamp(["triangle"], x, y, 48)[0]
    assert triangle[4].sum() > 0 and triangle[4].sum() < triangle[9].sum()  # the point is above


def test_what_looks_alike_is_the_pattern_the_place_and_the_family():
    assert look_alikes("star") == ["cross", "hexagram", "asterisk", "sparkle", "twinkles"]
    assert look_alikes("triangle") == ["square", "rhombus", "kite", "confetti", "desert"]
    assert set(MOTIFS.values()) < set(ID_CLASSES) and {shape for shape, *_ in RESIDENTS.values()} < set(
        OBJECTS
    )
    assert {name for known in ID_CLASSES for name in look_alikes(known)} >= set(NEAR_CLASSES)


def test_training_captions_are_true_and_say_what_they_claim():
    specs = sample_specs(300, THINGS, torch.Generator().manual_seed(0))
    texts, said = training_captions(specs, random.Random(0))
    facts = image_facts(specs)
    assert ((said == -1) | (said == facts)).all() and (said != -1).any(1).all()
    for text, claim in zip(texts, said.tolist(), strict=True):
        words = text.rstrip(".").split()
        assert claim[0] == -1 or OBJECTS[claim[0]] in words
        assert (
            claim[3] == -1
            or BACKGROUNDS[claim[3]] in words
            or TEXTURE_ADJECTIVES.get(BACKGROUNDS[claim[3]]) in words
        )
        assert claim[2] == -1 or SIZES[claim[2]] in words


def test_captions_say_what_is_drawn_and_avoid_what_they_are_told_to():
    specs = sample_specs(100, THINGS, torch.Generator().manual_seed(0))
    for i in range(100):
        thing = THINGS[int(specs.thing[i])]
        assert thing in caption(specs, i).split()
        assert thing not in OBJECTS or thing not in caption(specs, i, avoid=thing).split()


def test_the_detector_gets_half_of_the_vocabulary_and_no_id_name():
    for words, all_words in ((demo.WORDS["nouns"], NOUNS), (demo.WORDS["adjectives"], ADJECTIVES)):
        rest = [word for word in all_words if word not in ID_CLASSES]
        assert set(words) < set(rest) and len(words) == len(rest) // 2


def test_unknown_things_are_named():
    with pytest.raises(ValueError, match="dragon"):
        sample_specs(3, ["star", "dragon"], torch.Generator())


def test_the_shipped_clip_knows_the_id_classes():
    folder = demo.MODELS / "clip"
    assert name_accuracy(folder, ID_CLASSES, seed=5, n=480) > 0.7


def test_the_shipped_llava_sees_and_knows_what_looks_alike():
    mllm = TransformersMLLM(demo.LLAVA, max_new_tokens=16, batch_size=50)
    mllm.setup(torch.device("cpu"))
    g = torch.Generator().manual_seed(11)
    specs = sample_specs(50, [*TEXTURES, *SCENES], g)
    said = mllm.describe([to_pil_image(image) for image in draw_images(specs, g)], ["star"] * 50)
    right = sum(THINGS[int(thing)] in text.split() for thing, text in zip(specs.thing, said, strict=True))
    assert right > 35
    answers = mllm.similar_classes(ID_CLASSES)
    assert sum(answer == look_alikes(name) for name, answer in zip(ID_CLASSES, answers, strict=True)) > 18


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("square", 1.6**2),
        ("triangle", 1.9 * 1.75 / 2),
        ("circle", math.pi),
        ("oval", math.pi * 0.62),
        ("hexagon", 1.5 * math.sqrt(3)),
        ("ring", math.pi * (0.95**2 - 0.55**2)),
        ("frame", 1.7**2 - 0.96**2),
        ("flag", 0.17 * 2 + 1.4 * 0.9 - 0.02 * 0.9),
        ("cross", 2 * 2 * 0.6 - 0.6**2),
        ("star", 10 * 0.5 * 0.4 * math.sin(math.pi / 5)),
    ],
)
def test_a_shape_has_the_area_of_its_layers(name, area):
    """The masks show [-1.1, 1.1]²; an outline is some hundredths of a pixel thick, and curves are 28-gons."""
    assert float(stencil(name, 64).mean()) * 2.2**2 == pytest.approx(area, rel=0.03)
