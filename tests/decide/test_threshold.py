"""From scores to decisions: the equations against loops."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning import ANTS, demo
from ants_lightning.decide.threshold import Decision, decisive, recall_threshold
from ants_lightning.method.otsu import BINS, histogram, otsu_cut, otsu_edge

unit = st.one_of(st.integers(0, BINS).map(lambda k: k / BINS), st.floats(0, 1))


@pytest.mark.parametrize(
    "threshold",
    [
        -0.1,
        1.1,
        float("nan"),
        True,
        "otsu",
        {},
        {"id_recall": 0},
        {"id_recall": 1.5},
        {"recall": 0.9},
        {"id_recall": 0.9, "x": 1.0},
        [0.5],
    ],
)
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        ANTS(demo.CLIP, threshold=threshold)


def test_an_image_on_the_threshold_is_ood():
    decision = Decision(0.5)
    assert decision.decide(
        torch.tensor([0.25, 0.5, math.nextafter(0.5, 0), 0.75], dtype=torch.float64)
    ).tolist() == [0, 1, 0, 1]
    assert (
        Decision(None).decide(torch.tensor([0.5])) is None
        and Decision(1).value == 1.0
        and Decision(0).value == 0.0
    )


def test_what_is_decided_on():
    scores = {
        "mcm": torch.zeros(1),
        "neglabel": torch.ones(1),
        "ants": torch.full((1,), 0.5),
        "energy": torch.full((1,), 0.3),
    }
    assert decisive(scores) is scores["ants"]
    assert decisive({k: v for k, v in scores.items() if k != "ants"}) is scores["neglabel"]
    assert decisive({k: scores[k] for k in ("mcm", "energy")}) is scores["mcm"]


def test_a_score_on_an_edge_is_in_the_bin_above_and_one_in_the_last():
    edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
    counts, sums = histogram(edges)
    assert counts.tolist() == [1] * (BINS - 1) + [2]
    assert torch.equal(sums[:-1], edges[: BINS - 1]) and sums[-1] == edges[-2] + 1
    assert otsu_edge(*histogram(torch.tensor([0.5, 0.501], dtype=torch.float64))) == 0.501


def within(scores, edge):
    """Sum of squares around the means of both sides of an edge, None without scores on both."""
    sides = [x for x in scores if x < edge], [x for x in scores if x >= edge]
    return sum(sum((x - sum(side) / len(side)) ** 2 for x in side) for side in sides) if all(sides) else None


@given(st.lists(unit, max_size=8))
def test_otsu_of_a_histogram_is_as_good_as_the_best_edge_of_a_loop(scores):
    found = otsu_edge(*histogram(torch.tensor(scores, dtype=torch.float64)))
    all_edges = [spread for k in range(1, BINS) if (spread := within(scores, k / BINS)) is not None]
    assert (within(scores, found) == pytest.approx(min(all_edges), abs=1e-12)) if all_edges else found == 0.5


@pytest.mark.parametrize(("low", "high", "share"), [(0.2, 0.8, 0.5), (0.05, 0.6, 0.1), (0.4, 0.97, 0.9)])
def test_otsu_of_a_histogram_agrees_with_that_of_raw_scores_to_the_width_of_its_cuts(low, high, share):
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, generator=generator) * 0.1
    scores = (spread + torch.where(torch.arange(4000) < 4000 * share, high, low)).clamp(0, 1)
    assert otsu_edge(*histogram(scores)) == pytest.approx(otsu_cut(scores), abs=0.01 + 1 / BINS)


def test_otsu_takes_the_middle_of_equal_cuts_and_needs_two_sides():
    assert otsu_edge(*histogram(torch.tensor([0.1055, 0.1255, 0.9055]))) == 0.516  # of 0.126 … 0.905
    for none in ([], [0.3], [0.3001, 0.3002]):
        assert otsu_edge(*histogram(torch.tensor(none))) == 0.5


def test_auto_is_the_cut_of_all_scores_so_far_however_they_came_and_forgets_at_a_new_stream():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(3))
    decision = Decision("auto")
    assert decision.value == 0.5
    for i, part in enumerate(scores.split([1, 0, 499, 300, 200])):
        decision.learn(part)
        if i == 2:
            twin = Decision("auto")
            twin.restore(
                json.loads(json.dumps({"value": decision.value}))
                | {k: decision.state()[k] for k in ("counts", "sums")}
            )
    assert decision.value == otsu_edge(*histogram(scores))
    twin.learn(scores[500:])
    assert twin.value == decision.value and all(
        torch.equal(twin.state()[k], decision.state()[k]) for k in ("counts", "sums")
    )
    decision.reset()
    assert decision.value == 0.5 and not decision.state()["counts"].any()
    fixed = Decision(0.25)
    fixed.learn(scores)
    fixed.reset()
    assert fixed.value == 0.25


@given(st.lists(st.one_of(unit, st.sampled_from([0.25, 0.5])), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_recall_threshold_is_the_smallest(scores, recall):
    t = recall_threshold(torch.tensor(scores, dtype=torch.float64), recall)
    accepted = [sum(x < at for x in scores) / len(scores) for at in (math.nextafter(t, 0), t)]
    assert accepted[0] < recall <= accepted[1] + 1e-9


@pytest.mark.parametrize("percent", [5, 7, 29, 58, 95, 100])
def test_a_recall_in_hundredths_is_met_exactly(percent):
    for n in range(1, 201):
        scores = torch.arange(n) / 200
        accepted = int((scores.double() < recall_threshold(scores, percent / 100)).sum())
        assert accepted == -(-percent * n // 100)
