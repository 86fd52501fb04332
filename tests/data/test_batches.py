"""What batches and dataloaders may look like."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ants_lightning.data import batches

IMAGE, LABEL, INDEX = torch.rand(4, 3, 2, 2), torch.tensor([0, 2, -1, -5]), torch.tensor([7, 3, 9, 1])


@pytest.mark.parametrize(
    ("batch", "label", "index"),
    [
        (IMAGE, False, False),
        ((IMAGE, LABEL), True, False),
        ([IMAGE, LABEL], True, False),
        ((IMAGE, LABEL, INDEX), True, True),
        ({"image": IMAGE}, False, False),
        ({"image": IMAGE, "index": INDEX}, False, True),
        ({"path": ["a"] * 4, "index": INDEX, "label": LABEL, "image": IMAGE}, True, True),
        ({"image": IMAGE, "label": LABEL.tolist(), "index": INDEX.int()}, True, True),
        ((IMAGE, LABEL.to(torch.int16), INDEX.numpy()), True, True),
        ((IMAGE, LABEL.double(), INDEX.half()), True, True),
        (
            (
                IMAGE,
                pd.Series(LABEL.tolist(), index=[3, 1, 0, 2]),
                pd.Series(INDEX.tolist(), index=[9, 8, 7, 6]),
            ),
            True,
            True,
        ),
        ((IMAGE, LABEL.numpy().astype(np.float64), list(INDEX.numpy())), True, True),
        ((IMAGE, tuple(LABEL), INDEX.numpy().astype(np.uint16)), True, True),
        ((IMAGE, None, None), False, False),
    ],
)
def test_batches_of_every_accepted_form(batch, label, index):
    found = batches.unpack_batch(batch)
    assert found[0] is IMAGE
    for x, expected, there in zip(found[1:], (LABEL, INDEX), (label, index), strict=True):
        assert (x is not None and x.dtype == torch.int64 and torch.equal(x, expected)) if there else x is None


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ({"images": IMAGE, "label": LABEL}, r"\['images', 'label'\]"),
        ({1: IMAGE, "label": LABEL}, "a batch must be"),
        ((IMAGE, LABEL, INDEX, INDEX), "a batch must be .*tuple"),
        ([], "a batch must be .*list"),
        (None, "a batch must be .*NoneType"),
        ((IMAGE.numpy(), LABEL), "images must be a tensor .*ndarray"),
        ("ab", "images must be a tensor .*str"),
        (IMAGE[0], r"images must be a tensor .*\(3, 2, 2\)"),
        ((LABEL, IMAGE), r"images must be a tensor .*\(4,\)"),
        ((IMAGE, LABEL[:3]), r"4 images with label of shape \(3,\)"),
        ((IMAGE, LABEL[:, None]), r"4 images with label of shape \(4, 1\)"),
        ((IMAGE, LABEL, INDEX[:2]), r"4 images with index of shape \(2,\)"),
        ({"image": IMAGE, "label": 3}, r"4 images with label of shape \(\)"),
        ((IMAGE, LABEL, ["a.png"] * 4), "index"),
        ({"image": IMAGE, "label": "cats"}, "label"),
        ((IMAGE, LABEL == 0), r"label must be whole numbers \(n,\), got torch.bool with \[True\]"),
        ((IMAGE, [True, False, True, True]), "label must be whole numbers .*torch.bool"),
        ((IMAGE, [0.0, 1.0, float("nan"), 2.0]), "label .*got nan; it is the place of the class name"),
        ((IMAGE, torch.tensor([0, 1, torch.inf, 2])), "label .*got inf"),
        ((IMAGE, np.array([0, 1, -0.5, 2])), r"label .*got -0\.5"),
        ((IMAGE, torch.tensor([0, 1, 1.5, 2]).bfloat16()), r"label .*got 1\.5"),
        ((IMAGE, torch.tensor([0, 1, 1e30, 2])), r"label .*got 1\.0000"),
        ((IMAGE, LABEL.to(torch.complex64)), "label must be whole numbers .*complex64"),
        ((IMAGE, [2, "cat", 1, 0]), "label must be whole numbers .*got list with 'cat'"),
        ((IMAGE, ("cat", "dog", "cat", "cow")), "label must be whole numbers .*got tuple with 'cat'"),
        (
            (IMAGE, np.array(["cat", "dog", "cat", "cow"])),
            "label must be whole numbers .*got ndarray with .*cat",
        ),
        ((IMAGE, pd.Series(["cat", "dog", "cat", "cow"])), "label must be whole numbers .*got Series with"),
        ((IMAGE, [None] * 4), "label must be whole numbers .*got list with None"),
        ((IMAGE, [1, 2, None, 0]), "label must be whole numbers .*got list with None"),
        ((IMAGE, [{"boxes": 1}] * 4), r"label must be whole numbers .*got list with \{'boxes': 1\}"),
        (
            (IMAGE, {"boxes": LABEL}),
            "label must be whole numbers .*got dict with .*detection targets are none",
        ),
        ((IMAGE, torch.eye(4)), r"4 images with label of shape \(4, 4\), it must be \(n,\); .*one-hot"),
        ((IMAGE, [[0], [1, 2], [3], []]), "label must be whole numbers"),
        (
            (IMAGE, LABEL, [0.5, 1, 2, 3]),
            r"index .*got 0\.5; the third element of a batch.*leave out what is something else",
        ),
    ],
)
def test_batches_of_other_forms_are_named(batch, match):
    with pytest.raises(ValueError, match=match):
        batches.unpack_batch(batch)


@pytest.mark.parametrize(
    ("loaders", "expected"),
    [
        ({"b": 1, "a": 2}, {"b": 1, "a": 2}),
        ([1, 2, 3], {"test": 1, "test_1": 2, "test_2": 3}),
        (5, {"test": 5}),
    ],
)
def test_stream_loaders_are_named_in_order(loaders, expected):
    found = batches.stream_loaders(SimpleNamespace(predicting=False, test_dataloaders=loaders))
    assert list(found.items()) == list(expected.items())


def test_loaders_of_a_prediction_have_names_of_their_own():
    found = batches.stream_loaders(
        SimpleNamespace(predicting=True, predict_dataloaders=[1, 2], test_dataloaders=[3])
    )
    assert found == {"predict": 1, "predict_1": 2}


def test_what_is_kept_to_know_indices_does_not_grow_with_the_stream():
    check = batches.IndexCheck(None)
    for start in range(0, 100_000, 1000):
        check(torch.arange(start, start + 1000).flip(0))
    assert len(check._newest) == 4096
    with pytest.raises(ValueError, match="index 99000 comes twice"):
        check(torch.tensor([100_000, 99_000]))
    sized = batches.IndexCheck(1000)
    for part in torch.randperm(1000).split(100):
        sized(part)
    assert sized._seen.all() and len(sized._newest) == 0
    for wrong, match in (
        ([3], "index 3 comes twice"),
        ([1000], "index 1000 of a data set of 1000"),
        ([-1], "-1 is negative"),
    ):
        with pytest.raises(ValueError, match=match):
            sized(torch.tensor(wrong))
    with pytest.raises(ValueError, match="index 7 comes twice"):
        batches.IndexCheck(1000)(torch.tensor([3, 7, 1, 7]))
    batches.IndexCheck(0)(torch.empty(0, dtype=torch.long))


@pytest.mark.parametrize(
    "loaders",
    [{"near": {"a": 1}}, {"near": [1]}, [[1], 2], [(1, 2)], {"a": torch.zeros(2)}, [np.zeros(2)], ["test"]],
)
def test_loaders_within_loaders_are_refused(loaders):
    with pytest.raises(
        ValueError, match=r"test_dataloader\(\) may return one loader, a list .* a dict .*none of them nested"
    ):
        batches.stream_loaders(SimpleNamespace(predicting=False, test_dataloaders=loaders))
