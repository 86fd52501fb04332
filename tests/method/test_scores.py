import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ants_lightning.method import scores
from ants_lightning.method.weight import adaptive_weight

NAN, INF = math.nan, math.inf


def rows(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def lse(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def cosines(v, texts, tau):
    return [sum(float(a) * float(b) for a, b in zip(v, t, strict=True)) / tau for t in texts.tolist()]


def reference_margins(images, id_text, negative_text, tau, num_groups):
    """Plain loops in float64; NumPy's array_split makes the leading runs one longer."""
    m = len(negative_text)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(0)).tolist()
    out = []
    for v in images.tolist():
        logits = cosines(v, negative_text, tau)
        runs = [[logits[i] for i in run] for run in np.array_split(order, min(num_groups, m))]
        out.append([lse(run) - lse(cosines(v, id_text, tau)) for run in runs])
    return np.array(out)


def planar(margins, tau=0.01):
    """Images with the given margins against one ID text and one negative text, which are returned too."""
    eye = torch.eye(3)
    images = [[max(0.0, -m * tau), max(0.0, m * tau), math.sqrt(1 - (m * tau) ** 2)] for m in margins]
    return torch.tensor(images), eye[:1], eye[1:2]


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(
    ("m", "groups"), [(12, 1), (12, 4), (13, 4), (15, 4), (11, 10), (5, 8), (1, 1), (1, 3)]
)
def test_ood_score_is_that_of_plain_loops(tau, m, groups):
    images, id_text, negatives = rows(7, seed=1), rows(5, seed=2), rows(m, seed=3)
    found = scores.ood_score(images, id_text, negatives, tau, groups)
    assert found.shape == (7,) and found.dtype == torch.float32
    expected = reference_margins(images, id_text, negatives, tau, groups)
    np.testing.assert_allclose(found, np.mean(1 / (1 + np.exp(-expected)), axis=1), rtol=3e-5, atol=1e-12)
    ordered = negatives[scores.group_order(m, groups)]
    margins = scores.margins(images @ id_text.T / tau, images @ ordered.T / tau, groups)
    np.testing.assert_allclose(margins, expected, atol=5e-5)
    if (tau, groups) == (0.01, 1):
        assert torch.equal(found, scores.ood_score(images, id_text, negatives))  # the defaults


@pytest.mark.parametrize(("n", "groups", "sizes"), [(9, 3, [3, 3, 3]), (11, 3, [4, 4, 3]), (2, 5, [1, 1])])
def test_groups_are_runs_of_the_seeded_permutation(n, groups, sizes):
    order = scores.group_order(n, groups)
    assert order.tolist() == torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    # Logits of 0 have log-sum-exp log(size); logits that grow fast have that of the last column of the run.
    flat = scores.grouped_logsumexp(torch.zeros(1, n), groups)
    torch.testing.assert_close(flat, torch.tensor([sizes]).float().log())
    steep = 100.0 * torch.arange(n)[None]
    assert scores.grouped_logsumexp(steep, groups)[0].tolist() == [
        100 * (end - 1) for end in np.cumsum(sizes)
    ]


def test_score_worked_out_by_hand():
    eye = torch.eye(4)
    # Cosines of image 0: ID 1, negatives 0 and 0. S = e / (e + 1) with a group each, e / (e + 2) with both in
    # one.
    e = math.e
    assert scores.ood_score(eye[:1], eye[:1], eye[1:3], 1.0, 2).item() == pytest.approx(1 / (e + 1), rel=1e-6)
    assert scores.ood_score(eye[:1], eye[:1], eye[1:3], 1.0, 1).item() == pytest.approx(2 / (e + 2), rel=1e-6)
    # Two ID classes, τ = 0.5: S = (e² + 1) / (e² + 1 + 1).
    assert scores.ood_score(eye[:1], eye[:2], eye[2:3], 0.5).item() == pytest.approx(1 / (e**2 + 2), rel=1e-6)
    assert scores.mcm_score(eye[:1], eye[:2]).item() == pytest.approx(1 / (e + 1), rel=1e-6)
    assert scores.ood_score(eye[:0], eye, eye).shape == (0,)


def test_scores_near_0_keep_their_order_and_digits():
    wanted = np.arange(-80.0, -15.0, 0.5)
    found = scores.ood_score(*planar(wanted)).double().numpy()
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, np.exp(wanted), rtol=1e-4)


def test_scores_near_1_keep_their_order():
    found = scores.ood_score(*planar(np.arange(5.0, 14.0, 0.25))).double().numpy()
    assert (np.diff(found) > 0).all() and found[-1] < 1
    assert (np.diff(scores.ood_score(*planar(np.arange(14.0, 80.0)))) >= 0).all()


def test_id_score_is_exact_where_the_ood_score_is_1():
    ladder = torch.arange(15.0, 85.0, 0.5)[:, None]
    small = (-scores.margins(torch.zeros(len(ladder), 2), ladder, 1)).sigmoid()[:, 0].double()
    expected = 1 / (1 + (ladder[:, 0].double() - math.log(2)).exp())
    assert (small.diff() < 0).all()
    torch.testing.assert_close(small, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    args = [rows(n, seed=n).to(dtype) for n in (5, 8, 600)]
    assert (scores.ood_score(*args).dtype, scores.mcm_score(*args[:2]).dtype) == (
        torch.float32,
        torch.float64,
    )
    expected = np.mean(1 / (1 + np.exp(-reference_margins(*args, 0.01, 7))), axis=1)
    np.testing.assert_allclose(scores.ood_score(*args, 0.01, 7), expected, rtol=1e-4)
    logits = 3 * torch.randn(4, 2000, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = [[lse(logits[i].tolist()) - lse(logits[i, :9].tolist())] for i in range(4)]
    np.testing.assert_allclose(scores.margins(logits[:, :9], logits, 1), expected, rtol=1e-5)


def test_autocast_changes_nothing():
    args = rows(6, seed=1), rows(4, seed=2), rows(30, seed=3)
    plain = scores.ood_score(*args, num_groups=4), scores.mcm_score(*args[:2])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = scores.ood_score(*args, num_groups=4), scores.mcm_score(*args[:2])
    for a, b in zip(plain, mixed, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize(("classes", "tau"), [(6, 1.0), (6, 0.05), (1, 1.0)])
def test_mcm_is_that_of_plain_loops(classes, tau):
    images, id_text = rows(9, seed=1), rows(classes, seed=2)
    logits = [cosines(v, id_text, tau) for v in images.tolist()]
    expected = [sum(math.exp(x - lse(row)) for x in sorted(row)[:-1]) for row in logits]
    found = scores.mcm_score(images, id_text, tau)
    assert found.min() >= 0 and found.max() <= 1 - 1 / classes + 1e-6
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


def test_mcm_near_0_keeps_its_order_and_digits():
    # The other class is e^-gap as likely as the first.
    gaps = torch.arange(5.0, 60.0)
    found = scores.mcm_from_logits(torch.stack([gaps, torch.zeros_like(gaps)], 1)).double()
    assert (found.diff() < 0).all()
    np.testing.assert_allclose(found, 1 / (1 + gaps.double().exp()), rtol=1e-5)


WEIGHTS = [([], [], 0.5), ([0.0, 0.0], [0.0, 0.0], 0.5), ([1.0], [1.0], 0.5), ([0.5, 0.7], [0.1, 0.3], 0.75)]


@pytest.mark.parametrize(("ens", "vsnl", "weight"), [*WEIGHTS, ([1.0], [0.0], 1.0), ([1e-30], [3e-30], 0.25)])
def test_weight_by_hand(ens, vsnl, weight):
    found = adaptive_weight(torch.tensor(ens), torch.tensor(vsnl))
    assert isinstance(found, float) and found == pytest.approx(weight, abs=1e-7)


def test_weight_of_half_precision_scores_is_that_of_their_float64_means():
    a, b = (torch.rand(3000, generator=torch.Generator().manual_seed(s)).half() for s in (1, 2))
    x, y = np.mean(a.double().numpy()), np.mean(b.double().numpy())
    assert adaptive_weight(a, b) == pytest.approx(x / (x + y), rel=1e-9)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [-0.25, 1.5, NAN, INF])
def test_weight_names_what_is_out_of_range(which, value):
    pair = torch.full((2, 2), 0.5)
    pair[which, 1] = value
    with pytest.raises(ValueError, match=f"{('ood_ens', 'ood_vsnl')[which]} .*{value}"):
        adaptive_weight(*pair)


@pytest.mark.parametrize(("a", "b"), [((2,), (3,)), ((2, 1), (2, 1)), ((), ())])
def test_weight_needs_two_vectors_of_one_length(a, b):
    with pytest.raises(ValueError, match="two vectors"):
        adaptive_weight(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize("which", ["image_features", "id_text", "negative_text"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_features_that_are_not_finite_are_named_with_their_row(which, value):
    args = {"image_features": rows(5), "id_text": rows(5), "negative_text": rows(5)}
    args[which][3, 2] = value
    with pytest.raises(ValueError, match=f"{which} .*row 3"):
        scores.ood_score(**args)


BAD = [
    *(("image_features", x, m) for x, m in ((rows(4)[0], "shape"), (rows(4, 8), "has 8"))),
    *(("id_text", x, m) for x, m in ((rows(4)[None], "shape"), (rows(4)[:0], "empty"))),
    *(
        ("negative_text", x, m)
        for x, m in ((rows(4)[0], "shape"), (rows(4, 8), "has 8"), (rows(4)[:0], "empty"))
    ),
    *(("temperature", x, f"got {x}") for x in (0.0, -1.0, NAN)),
    *(("num_groups", x, f"got {x}") for x in (0, -2)),
]


@pytest.mark.parametrize(("name", "value", "match"), BAD)
def test_bad_arguments_are_named(name, value, match):
    args = {"image_features": rows(4), "id_text": rows(3), "negative_text": rows(5), name: value}
    with pytest.raises(ValueError, match=f"{name}.*{match}"):
        scores.ood_score(**args)
    if args.pop("negative_text") is not value and name != "num_groups":
        with pytest.raises(ValueError, match=f"{name}.*{match}"):
            scores.mcm_score(**args)
