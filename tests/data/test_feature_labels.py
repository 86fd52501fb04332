"""Labels of encoded data sets are those of today."""

import pytest
import torch
from feature_parts import QUIET, make_data, make_model, told

from ants_lightning import demo
from ants_lightning.cli import Trainer
from ants_lightning.demo.shapes import ID_CLASSES


def test_labels_that_were_corrected_after_encoding_count(copy):
    data = make_data(copy)
    right = told(copy, data)
    data.id_set.labels = [(label + 1) % len(ID_CLASSES) for label in data.id_set.labels]
    assert told(copy, data) < 0.2 < right
    data.id_set.labels = ["star"] * 47 + [0]  # told, and some are no numbers: the items say what is wrong
    with pytest.raises(ValueError, match=r"image 0 of the ID set .* has the label 'star'"):
        told(copy, data)
    data.id_set.labels = demo.DrawnImages(ID_CLASSES, 48, 70).labels
    data.id_set.labels[30] = float("nan")  # no image that is looked at
    with pytest.raises(
        ValueError, match=r"id: label of image 30 is no whole number: it must be a number 0…C-1"
    ):
        told(copy, data)
    data.id_set.labels[30] = -1
    with pytest.raises(ValueError, match="id: label of image 30 is -1"):
        told(copy, data)


class Untold(torch.utils.data.Dataset):
    """Tells no labels but with the images."""

    def __init__(self, drawn, change=lambda label: label):
        self.drawn, self.change = drawn, change

    def __len__(self):
        return len(self.drawn)

    def __getitem__(self, i):
        image, label = self.drawn[i]
        return image, self.change(label)


class TargetTransformed(Untold):
    """Tells labels that are not those of its items."""

    @property
    def targets(self):
        return self.drawn.labels


@pytest.mark.parametrize("kind", [Untold, TargetTransformed])
def test_labels_that_are_not_told_are_compared_where_images_are_looked_at(tmp_path, kind):
    data = make_data(tmp_path / "features")
    data.id_set = kind(data.id_set, lambda label: (label + 2) % len(ID_CLASSES))
    data.class_names = ID_CLASSES
    Trainer(**QUIET).encode(make_model(), data)
    told(tmp_path / "features", data)
    first = data.id_set[0][1]
    data.id_set.change = lambda label: (label + 3) % len(ID_CLASSES)
    with pytest.raises(
        ValueError,
        match=rf"id: label of image 0 was {first} when it was encoded, now {data.id_set[0][1]}: run",
    ):
        told(tmp_path / "features", data)
    Trainer(**QUIET).encode(make_model(), data)  # encodes it anew
    told(tmp_path / "features", data)
    if kind is TargetTransformed:
        data.id_set.drawn.labels[30] += 1  # the column is not that of the items, but it has changed
        with pytest.raises(ValueError, match="id: label of image 30 was"):
            told(tmp_path / "features", data)


def test_labels_of_ood_sets_are_not_looked_at(tmp_path):
    data = make_data(tmp_path / "features")
    data.ood_sets["scenes"] = Untold(data.ood_sets["scenes"], lambda label: "a scene")
    data.ood_sets["tex/tures"] = Untold(data.ood_sets["tex/tures"], lambda label: None)
    assert len(Trainer(**QUIET).encode(make_model(), data)) == 3
    assert told(tmp_path / "features", data) > 0.2
    data.id_set = Untold(data.id_set, lambda label: "star")
    with pytest.raises(ValueError, match=r"image \d+ of the ID set \(Untold\) has the label 'star'"):
        Trainer(**QUIET).encode(make_model(), data)
