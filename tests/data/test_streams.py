"""The streams: counts, orders and labels."""

import hashlib
import json
import struct

import pytest
import torch
from stream_parts import Numbered, items, reds, stream, where

from ants_lightning.data import MixedStream
from ants_lightning.data.stream_order import apportion, stream_counts, stream_order


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1], [5, 5]),
        (5, [1, 1], [3, 2]),  # a tie: the first
        (10, [30, 20, 11], [5, 3, 2]),  # 4.918, 3.279, 1.803
        (3, [5, 5, 90], [0, 0, 3]),
        (7, [2, 2, 3], [2, 2, 3]),
        (0, [2, 5], [0, 0]),
        (100, [1, 2], [33, 67]),  # above the weights, as for the ID images of blocks
    ],
)
def test_apportion_by_hand(total, weights, parts):
    assert apportion(total, weights) == parts


def test_apportion_never_exceeds_a_weight_and_is_exact():
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        weights = torch.randint(1, 9, (4,), generator=g).tolist()
        for total in range(sum(weights) + 1):
            parts = apportion(total, weights)
            assert sum(parts) == total and all(0 <= p <= w for p, w in zip(parts, weights, strict=True))
            assert all(abs(p - total * w / sum(weights)) < 1 for p, w in zip(parts, weights, strict=True))


@pytest.mark.parametrize(
    ("available", "share", "size", "counts"),
    [
        ([60, 40], None, None, [60, 40]),
        ([60, 40], 0.5, None, [40, 40]),  # too many ID
        ([40, 60], 0.5, None, [40, 40]),  # too many OOD
        ([90, 90], 0.1, None, [90, 10]),
        ([90, 90], 0.9, None, [10, 90]),
        ([60, 40], 0.4, None, [60, 40]),
        ([60, 30, 10], 0.25, None, [60, 15, 5]),
        ([60, 40], None, 10, [6, 4]),
        ([60, 30, 10], None, 10, [6, 3, 1]),
        ([60, 30, 10], 0.5, 8, [4, 3, 1]),
        ([61, 40], None, 100, [60, 40]),  # 60.4, 39.6
        ([60, 40], None, 100, [60, 40]),
    ],
)
def test_counts_by_hand(available, share, size, counts):
    assert stream_counts(available, share, size) == counts


@pytest.mark.parametrize(
    ("available", "share", "size", "match"),
    [
        ([0, 3], None, None, "got 0 and 3"),
        ([3, 0, 0], None, None, "got 3 and 0"),
        ([60, 40], 0.0, None, "ood_share .* got 0.0"),
        ([60, 40], 1.0, None, "ood_share .* got 1.0"),
        ([60, 40], -0.2, None, "ood_share .* got -0.2"),
        ([60, 40], float("nan"), None, "ood_share .* got nan"),
        ([60, 40], None, 101, r"100 images \(60 ID, 40 OOD\), got 101"),
        ([60, 40], 0.5, 81, r"80 images \(40 ID, 40 OOD\), got 81"),
        ([60, 40], None, 0, "got 0"),
        ([60, 40], None, -5, "got -5"),
        ([60, 40], 0.001, None, r"ood_share=0.001 .* leave \[60, 0\]"),
        ([60, 30, 2], None, 10, r"size=10 .* leave \[7, 3, 0\]"),
        ([60, 30, 0], None, None, r"leave \[60, 30, 0\]"),
    ],
)
def test_counts_that_cannot_be_are_named(available, share, size, match):
    with pytest.raises(ValueError, match=match):
        stream_counts(available, share, size)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_default_order_is_a_permutation_of_the_seed(seed):
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    s = stream(seed=seed)
    assert s.order.dtype == torch.int64 and torch.equal(s.order, expected)
    one = MixedStream(Numbered(0, 60), Numbered(1, 40), where, seed)
    assert torch.equal(one.order, expected) and one.ood_names == ["ood"]
    # one block is no block
    assert torch.equal(stream_order([60, 40], [60, 40], "blocks", seed), expected)


def test_labels_tell_the_ood_sets_of_a_stream_apart():
    s = stream()
    assert s.ood_names == ["a", "b"] and [len(x) for x in s.sets] == [60, 30, 10]
    for i, item in enumerate(items(s)):
        red, place = item["image"]
        assert item["label"] == (place % 3, -1, -2)[red] and type(item["label"]) is int and item["index"] == i
        assert int(s.order[i]) == place + (0, 60, 90)[red]
        assert where(s.raw_image(i)) == (red, place)


@pytest.mark.parametrize("order", ["mixed", "id_first", "blocks"])
@pytest.mark.parametrize("settings", [{}, {"ood_share": 0.25}, {"size": 50}, {"ood_share": 0.5, "size": 40}])
def test_every_order_holds_the_same_images_once(order, settings):
    s = stream(order=order, seed=3, **settings)
    places = s.order.tolist()
    assert len(set(places)) == len(places) == len(s) and 0 <= min(places) <= max(places) < 100
    assert sorted(places) == sorted(stream(seed=3, **settings).order.tolist())
    assert [reds(s).count(red) for red in range(3)] == s.counts
    assert torch.equal(s.order, stream(order=order, seed=3, **settings).order)
    assert not torch.equal(s.order, stream(order=order, seed=4, **settings).order)
    torch.manual_seed(1)
    again = stream(order=order, seed=3, **settings).order
    torch.manual_seed(2)
    assert torch.equal(again, stream(order=order, seed=3, **settings).order)


def test_another_seed_leaves_out_other_images():
    chosen = [set(stream(size=50, seed=seed).order.tolist()) for seed in (0, 1)]
    assert chosen[0] != chosen[1]
    # what is left out comes from all over the set, not from its end
    assert max(p for p in chosen[0] if p < 60) > 45 and min(chosen[0]) < 15


def test_id_first_is_all_id_then_all_ood():
    seen = reds(stream(order="id_first"))
    assert set(seen[:60]) == {0} and set(seen[60:]) == {1, 2}
    assert seen[60:] != sorted(seen[60:])  # near and far are mixed behind the ID images
    ids = [item["image"][1] for item in items(stream(order="id_first"))[:60]]
    assert ids != sorted(ids)


def test_blocks_bring_the_ood_sets_one_after_another_with_their_share_of_id():
    s = stream(600, 300, 100, order="blocks", seed=5)
    seen = reds(s)
    # 600 ID over blocks of 300 and 100: 450 and 150
    first, second = seen[:750], seen[750:]
    assert [first.count(red) for red in range(3)] == [450, 300, 0] and [
        second.count(red) for red in range(3)
    ] == [150, 0, 100]
    for block, red, n in ((first, 1, 300), (second, 2, 100)):
        # Mixed within the block: binomial, 5 standard deviations wide
        half = block[: len(block) // 2].count(red)
        assert abs(half - n / 2) < 5 * (n / 4) ** 0.5
    places = [item["image"][1] for item in items(s)[:750] if item["image"][0] == 0]
    assert (
        min(places) < 60 and max(places) > 540 and places != sorted(places)
    )  # ID of the first block is from all over the set
    assert abs(sum(places) / 450 - 299.5) < 50


def test_the_order_is_an_option_of_three():
    with pytest.raises(ValueError, match="mixed, id_first, blocks, got 'sorted'"):
        stream(order="sorted")


def test_an_ood_set_called_id_is_refused():
    with pytest.raises(ValueError, match="'id'"):
        MixedStream(Numbered(0, 3), {"id": Numbered(1, 3)}, where)


def test_a_negative_id_label_is_refused():
    s = MixedStream(Numbered(0, 1, label=-1), Numbered(1, 1), where, seed=0)
    with pytest.raises(ValueError, match="image 0 of the ID set has the negative label -1"):
        items(s)


def test_the_description_is_plain_json_with_the_hash_of_the_order():
    s = stream(order="blocks", ood_share=0.25, size=20, seed=9)
    found = json.loads(json.dumps(s.description()))
    assert {**found, "order_sha256": None} == {
        "order": "blocks",
        "seed": 9,
        "ood_share": 0.25,
        "size": 20,
        "sets": {"id": 15, "a": 4, "b": 1},
        "order_sha256": None,
    }
    assert found["order_sha256"] == hashlib.sha256(struct.pack("<20q", *s.order.tolist())).hexdigest()
