"""The data module of streams: mixes, class names, ID labels and paths."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from stream_parts import Numbered, items, reds, where
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning.data import MixedStream, OODDataModule


def module(**settings):
    near, far = {"a": Numbered(1, 30)}, {"b": Numbered(2, 10), "c": Numbered(3, 20)}
    return OODDataModule(Numbered(0, 60), near, far, transform=where, num_workers=0, **settings)


def test_several_ood_sets_in_one_stream():
    data = module(
        mix={"all": ["c", "a"], "far": ["b", "c"]}, seed=2, order="id_first", ood_share=0.5, size=20
    )
    assert data.groups == {"all": "mixed", "far": "far"}
    data.setup("test")
    assert list(data.streams) == ["all", "far"]
    assert data.streams["all"].description()["sets"] == {"id": 10, "c": 4, "a": 6}
    assert {
        (item["image"][0], item["label"]) for item in items(data.streams["all"]) if item["label"] < 0
    } == {(3, -1), (1, -2)}
    assert set(reds(data.streams["far"])[:10]) == {0} and data.streams["far"].seed == 2


def test_a_set_in_no_mix_keeps_its_own_stream():
    data = module(mix={"both": ["a", "b"]})
    data.setup("test")
    assert {name: s.ood_names for name, s in data.streams.items()} == {"both": ["a", "b"], "c": ["c"]}
    assert data.groups == {"both": "mixed", "c": "far"}
    data = module(mix={"near": ["a"]})
    assert data.groups == {"near": "near", "b": "far", "c": "far"}


@pytest.mark.parametrize(
    ("mix", "match"),
    [
        ({"all": ["a", "x"]}, "'x'"),
        ({"all": []}, r"'all' .* got \[\]"),
        ({"all": ["a", "a"]}, r"\['a', 'a'\]"),
        ({"c": ["a", "b"]}, "mix 'c' has the name of an OOD set"),
    ],
)
def test_a_mix_that_cannot_be_is_named(mix, match):
    with pytest.raises(ValueError, match=match):
        module(mix=mix)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"size": 71}, "stream 'b': size .* got 71"),
        ({"order": "x"}, "stream 'a': order .* got 'x'"),
        ({"ood_share": 2.0}, "stream 'a': ood_share .* got 2.0"),
    ],
)
def test_a_bad_setting_names_the_stream(settings, match):
    with pytest.raises(ValueError, match=match):
        module(**settings).setup("test")


def test_class_names_from_the_set_a_list_or_a_file(tmp_path):
    ood, named = {"a": Numbered(1, 3)}, SimpleNamespace(classes=["hot_dog", "cat"])
    names = tmp_path / "names.txt"
    names.write_text("\ufeffMaltese dog\ntoy  poodle \nÉclair\n\n", "utf-8")
    assert OODDataModule(named, ood).class_names == ["hot dog", "cat"]
    assert OODDataModule(named, ood, class_names=["x_1", "y"]).class_names == ["x_1", "y"]
    assert OODDataModule(named, ood, class_names=str(names)).class_names == [
        "Maltese dog",
        "toy  poodle",
        "Éclair",
    ]
    assert OODDataModule(Numbered(0, 3), ood).class_names is None  # ANTS(class_names=…) may have them
    with pytest.raises(ValueError, match="1 class names for the 2 classes"):
        OODDataModule(named, ood, class_names=["x"])
    with pytest.raises(ValueError, match=r"no such file: .*absent\.txt"):
        OODDataModule(named, ood, class_names=str(tmp_path / "absent.txt"))
    for text, match in (("a\n\nb\n", "line 2 is blank"), ("\n \n", "no names")):
        names.write_text(text)
        with pytest.raises(ValueError, match=match):
            OODDataModule(named, ood, class_names=str(names))


class Items(torch.utils.data.Dataset):
    """Images with labels of any kind, and paths of any kind."""

    def __init__(self, labels, paths=None):
        self.given = labels
        if paths is not None:
            self.paths = paths

    def __len__(self):
        return len(self.given)

    def __getitem__(self, i):
        return Image.new("RGB", (4, 4), (i, 0, 0)), self.given[i]


@pytest.mark.parametrize(
    "label", ["bell", None, float("nan"), 0.5, True, {"boxes": 1}, torch.zeros(3), np.array([0, 1])]
)
def test_id_labels_that_are_no_numbers_are_named_before_the_run(label):
    for first in (True, False):
        known, unknown = Items([label, 0] if first else [0, label]), Items(["cat"])
        data = OODDataModule(known, {"a": unknown}, transform=pil_to_tensor, num_workers=0)
        match = rf"image {int(not first)} of the ID set \(Items\) has the label .*must be a number 0…C-1"
        if first:
            with pytest.raises(ValueError, match=match):
                data.setup("test")
        else:
            data.setup("test")
            with pytest.raises(ValueError, match=match):
                [data.streams["a"][i] for i in range(3)]


@pytest.mark.parametrize(
    "wrap", [list, tuple, np.array, torch.tensor, lambda labels: torch.tensor(labels).float()]
)
def test_labels_of_any_whole_number_are_the_same(wrap):
    stream = MixedStream(Items(wrap([2, 0, 1])), Items(["cat"]), np.asarray, order="id_first")
    assert {stream[i]["image"][0, 0, 0]: stream[i]["label"] for i in range(3)} == {0: 2, 1: 0, 2: 1}
    assert all(type(stream[i]["label"]) is int for i in range(4)) and stream[3]["label"] == -1


def test_each_image_has_its_own_path_in_parts_and_chains_of_sets():
    table = pd.Series([f"{i}.png" for i in range(6)], index=[3, 1, 0, 5, 2, 4])
    whole = Items([0] * 6, table)
    chain = ConcatDataset([Subset(Subset(whole, [5, 3, 1]), [2, 0]), whole])
    stream = MixedStream(chain, whole, np.asarray)
    assert stream.has_paths and {
        stream[i]["path"] == f"{stream[i]['image'][0, 0, 0]}.png" for i in range(len(stream))
    } == {True}
