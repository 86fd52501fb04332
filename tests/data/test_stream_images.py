"""Streams of images, and the images that are kept for the MLLM."""

import json
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from ants_lightning import demo
from ants_lightning.data import MixedStream, OODDataModule
from ants_lightning.data.raw import RawImages
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run.snapshot_files import pack, unpack


def image_set(n, red, label=None):
    """n images of one red; image i has green i and label i, or `label`."""
    images = [Image.new("RGB", (4, 3), (red, i, 0)) for i in range(n)]
    return [(image, i if label is None else label) for i, image in enumerate(images)]


def colours(image):
    return image.getpixel((0, 0))[:2]


def mixed(n_id=30, n_ood=20, seed=0):
    return MixedStream(image_set(n_id, 100), image_set(n_ood, 200, label=3), colours, seed)


def test_a_stream_holds_every_image_once_and_ood_is_minus_1():
    stream = mixed()
    items = [stream[i] for i in range(len(stream))]
    assert len(stream) == 50 and [item["index"] for item in items] == list(range(50))
    assert sorted(item["image"] for item in items) == [
        *((100, i) for i in range(30)),
        *((200, i) for i in range(20)),
    ]
    for item in items:
        red, green = item["image"]
        assert type(item["label"]) is int and item["label"] == (green if red == 100 else -1)


def test_the_order_of_a_stream_is_mixed_and_that_of_its_seed():
    def order(seed):
        return [item["image"] for item in mixed(seed=seed)]

    torch.manual_seed(1)
    first = order(4)
    torch.manual_seed(2)
    assert first == order(4) != order(5)
    half = [red for red, _ in first[:25]]
    assert 5 <= half.count(200) <= 15
    places = torch.randperm(50, generator=torch.Generator().manual_seed(4)).tolist()
    assert first == [(100, place) if place < 30 else (200, place - 30) for place in places]


def test_raw_images_of_a_stream_are_untransformed_and_rgb():
    grey = [(Image.new("L", (9, 5), 7), 0)]
    stream = MixedStream(grey, image_set(3, 200), lambda image: None)
    raw = [stream.raw_image(i) for i in range(4)]
    assert all(image.mode == "RGB" for image in raw)
    found = sorted((image.size, image.getpixel((0, 0))) for image in raw)
    assert found == [*(((4, 3), (200, i, 0)) for i in range(3)), ((9, 5), (7, 7, 7))]
    assert mixed().raw_image(8).getpixel((0, 0))[:2] == mixed()[8]["image"]


@pytest.mark.parametrize(("n_id", "n_ood"), [(0, 3), (3, 0), (0, 0)])
def test_a_stream_of_an_empty_set_is_an_error(n_id, n_ood):
    with pytest.raises(ValueError, match=f"got {n_id} and {n_ood}"):
        mixed(n_id, n_ood)


@pytest.mark.parametrize(
    ("near", "far", "match"),
    [(None, None, r"\[\] and \[\]"), ({}, {}, r"\[\] and \[\]"), ({"a": 1, "b": 1}, {"b": 2}, r"'b'")],
)
def test_ood_sets_must_be_near_or_far(near, far, match):
    with pytest.raises(ValueError, match=match):
        OODDataModule(image_set(3, 100), near, far)


def test_the_data_module_serves_a_named_stream_for_each_ood_set():
    near, far = {"b": image_set(3, 150)}, {"a": image_set(5, 200)}
    data = OODDataModule(
        image_set(4, 100), near, far, batch_size=3, num_workers=0, seed=7, transform=lambda i: colours(i)[0]
    )
    assert data.groups == {"b": "near", "a": "far"} and data.class_names is None
    data.trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    data.setup("test")
    loaders = data.test_dataloader()
    assert list(loaders) == ["b", "a"]
    for name, red, sizes in (("b", 150, [3, 3, 1]), ("a", 200, [3, 3, 3])):
        parts = list(loaders[name])
        assert [len(part["label"]) for part in parts] == sizes
        seen = {key: torch.cat([part[key] for part in parts]).tolist() for key in parts[0]}
        order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(7))
        assert seen["index"] == list(range(sum(sizes)))
        assert seen["image"] == [100 if place < 4 else red for place in order]
        assert seen["label"] == [int(place) if place < 4 else -1 for place in order]


def test_class_names_come_from_the_id_set_unless_given():
    named = SimpleNamespace(classes=["x", "y"])
    assert OODDataModule(named, {"a": []}).class_names == ["x", "y"]
    assert OODDataModule(named, {"a": []}, class_names=["p", "q"]).class_names == ["p", "q"]


PREPROCESS = Compose([ToTensor(), Normalize((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))])


def pictures(n, size=(5, 4)):
    pixels = np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


def test_kept_images_are_denormalised():
    images = pictures(6)
    raw = RawImages([], PREPROCESS, capacity=10)
    raw.keep(
        torch.stack([PREPROCESS(i) for i in images]),
        torch.arange(6) * 10,
        torch.tensor([1, 0, 1, 1, 0, 1]).bool(),
    )
    assert all(np.array_equal(raw[10 * i], images[i]) for i in (0, 2, 3, 5))
    for place in (10, 40, 1):
        with pytest.raises(KeyError):
            raw[place]


def test_values_outside_the_pixels_are_clipped():
    raw = RawImages([], PREPROCESS, capacity=1)
    raw.keep(torch.tensor([-50.0, 50.0]).repeat(1, 3, 2, 1).half(), torch.tensor([0]), torch.tensor([True]))
    assert np.asarray(raw[0])[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_kept_images_are_compressed_and_forgotten_when_told():
    drawn = [image.resize((224, 224)) for image, _ in demo.DrawnImages(ID_CLASSES, 6, 0)]
    raw = RawImages([], PREPROCESS, capacity=10)
    raw.keep(torch.stack([PREPROCESS(image) for image in drawn]), torch.arange(6), torch.ones(6).bool())
    raw.forget([1, 4, 77])
    assert [i for i in range(6) if i in raw._kept] == [0, 2, 3, 5]
    state = raw.state()
    assert all(x.dtype == torch.uint8 and x.ndim == 1 for x in state["images"])
    assert sum(map(len, state["images"])) < 4 * 224 * 224 * 3 / 2
    again = RawImages([], PREPROCESS, capacity=10)
    again.restore(unpack(json.loads(json.dumps(pack(state, kept := {}))), kept, torch.device("cpu")))
    assert all(np.array_equal(again[i], drawn[i]) and again[i].mode == "RGB" for i in (0, 2, 3, 5))
    with pytest.raises(KeyError):
        again[1]


@pytest.mark.parametrize("size", [1, 3, 10])
def test_the_newest_images_are_kept_up_to_the_capacity(size):
    batch = torch.stack([PREPROCESS(image) for image in pictures(10)])
    raw = RawImages([], PREPROCESS, capacity=4)
    for part in torch.arange(10).split(size):
        raw.keep(batch[part], part, torch.ones(len(part)).bool())
    for place in range(6):
        with pytest.raises(KeyError):
            raw[place]
    assert all(np.array_equal(raw[place], pictures(10)[place]) for place in range(6, 10))


def test_a_data_set_that_gives_images_back_is_asked_and_nothing_is_kept():
    stream = mixed()
    raw = RawImages(stream, PREPROCESS, capacity=4)
    raw.keep(torch.zeros(1, 3, 2, 2), torch.tensor([8]), torch.tensor([True]))
    assert [colours(raw[i]) for i in (8, 9)] == [stream[i]["image"] for i in (8, 9)] and not raw._kept
