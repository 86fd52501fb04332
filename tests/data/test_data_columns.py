"""Paths and labels that belong to the image they are told of, whatever kind of column they are in."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

from ants_lightning.data.columns import (
    NO_LABEL,
    id_label,
    knows_paths,
    label_of,
    path_of,
    size_of,
    told_labels,
    whole,
)

PATHS, LABELS = ["a/0.png", "a/1.png", "a/2.png", "a/3.png"], [3, 0, 2, 1]
SHUFFLED = [2, 0, 3, 1]  # an index that is not 0, 1, 2, …


class Own(Dataset):
    def __init__(self, **columns):
        vars(self).update(columns)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return Image.new("RGB", (2, 2)), LABELS[i]


def rows(make):
    return [make(pair) for pair in zip(PATHS, LABELS, strict=True)]


FORMS = {
    "lists": dict(paths=PATHS, labels=LABELS),
    "tuples": dict(paths=tuple(PATHS), targets=tuple(LABELS)),
    "series": dict(paths=pd.Series(PATHS, index=SHUFFLED), labels=pd.Series(LABELS, index=SHUFFLED)),
    "filtered series": dict(
        paths=pd.Series(PATHS, index=[5, 7, 8, 9]), targets=pd.Series(LABELS, index=[5, 7, 8, 9])
    ),
    "named series": dict(
        paths=pd.Series(PATHS, index=list("wxyz")),
        targets=pd.Series(LABELS, index=list("wxyz"), dtype="category"),
    ),
    "arrays": dict(paths=np.array(PATHS), labels=np.array(LABELS, dtype=np.uint8)),
    "objects": dict(paths=np.array(PATHS, dtype=object), labels=np.array(LABELS, dtype=object)),
    "tensors": dict(paths=[Path(path) for path in PATHS], targets=torch.tensor(LABELS, dtype=torch.float32)),
    "samples": dict(samples=rows(tuple)),
    "samples as lists": dict(samples=rows(list)),
    "table of samples": dict(samples=pd.DataFrame({"path": PATHS, "label": LABELS}, index=SHUFFLED)),
    "array of samples": dict(samples=np.array(rows(tuple), dtype=object)),
    "imgs": dict(imgs=rows(tuple), labels=LABELS),
    "columns of another length first": dict(paths=PATHS[:3], samples=rows(tuple), labels=LABELS * 2),
    "names of other things first": dict(
        paths="folder", imgs=dict(enumerate(PATHS)), samples=rows(tuple), labels=5
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_taken_by_position_whatever_they_are(form):
    data = Own(**FORMS[form])
    part = Subset(Subset(data, [3, 1, 0]), np.array([0, 2]))
    chain = ConcatDataset([data, Subset(data, torch.tensor([2])), data])
    for found, order in ((data, [0, 1, 2, 3]), (part, [3, 0]), (chain, [0, 1, 2, 3, 2, 0, 1, 2, 3])):
        assert knows_paths(found)
        assert [path_of(found, i) for i in range(len(found))] == [PATHS[i] for i in order]
        assert [label_of(found, i) for i in range(len(found))] == [LABELS[i] for i in order]
        assert (
            told_labels(found).tolist() == [LABELS[i] for i in order]
            and told_labels(found).dtype == torch.int64
        )


def test_what_is_not_told_is_not_made_up():
    class Odd(Own):
        @property
        def paths(self):
            raise RuntimeError("not mounted")

    named, empty = Own(labels=["cat", "dog", "cat", "cow"]), Own(targets=[None] * 4, paths=[None] * 4)
    for data in (Own(), Odd(), named, Own(samples=PATHS), empty):
        assert (path_of(data, 1), label_of(data, 1), told_labels(data)) == (
            PATHS[1] if hasattr(data, "samples") else "",
            -1,
            None,
        )
    partly = Own(labels=[1, float("nan"), None, 2])
    assert told_labels(partly).tolist() == [1, NO_LABEL, NO_LABEL, 2] and label_of(partly, 1) == -1
    assert told_labels(ConcatDataset([partly, Own()])) is None
    assert (
        not knows_paths(Subset(Own(), [1]))
        and path_of(ConcatDataset([Own(), Own(paths=PATHS)]), 5) == PATHS[1]
    )


def test_labels_that_are_changed_on_the_way_are_told_as_they_come_out_or_not_at_all():
    class Turned(Subset):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image, 3 - label

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    data = Own(targets=LABELS, target_transform=lambda label: 10 + label)
    assert told_labels(data).tolist() == [13, 10, 12, 11] and label_of(data, 2) == 12
    assert (
        told_labels(Turned(Own(labels=LABELS), [0, 1])) is None
        and label_of(Turned(Own(labels=LABELS), [0, 1]), 0) == -1
    )
    assert path_of(Turned(Own(paths=PATHS), [2]), 0) == PATHS[2]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (-2, -2),
        (3.0, 3),
        (np.int64(4), 4),
        (np.float32(4), 4),
        (np.array([5]), 5),
        (torch.tensor(6), 6),
        (torch.tensor([6.0]), 6),
        (True, None),
        (np.True_, None),
        (torch.tensor(True), None),
        (2.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e300, None),
        (2**70, None),
        ("3", None),
        (b"3", None),
        (None, None),
        ({"boxes": 1}, None),
        ([1, 2], None),
        ([[1], [2, 3]], None),
        (np.zeros(0), None),
        (torch.zeros(3), None),
        (1 + 2j, None),
        (SimpleNamespace(), None),
    ],
)
def test_a_label_is_a_whole_number_or_none(value, number):
    assert whole(value) == number and type(whole(value)) in (int, type(None))
    if number is None:
        with pytest.raises(
            ValueError, match=r"image 7 of the ID set \(Own\) has the label .*must be a number 0…C-1"
        ):
            id_label(value, 7, Own())
    elif number < 0:
        with pytest.raises(ValueError, match=r"image 7 of the ID set .* negative label -2"):
            id_label(value, 7, Own())
        assert id_label(value, 7, Own(), negative=True) == -2
    else:
        assert id_label(value, 7, Own()) == number


def test_the_size_of_a_set_is_told_where_it_has_one():
    class Endless:
        def __len__(self):
            raise TypeError("endless")

    assert (size_of([1, 2]), size_of(iter([])), size_of(Endless()), size_of(None)) == (2, None, None, None)
