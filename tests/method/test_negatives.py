import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ants_lightning.method import negatives
from ants_lightning.method.counts import count_of
from ants_lightning.method.near_classes import near_classes
from ants_lightning.method.otsu import separation, shows_negatives

NAN, INF = float("nan"), float("inf")


def rows(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def reference_labels(candidates, id_text, count, percentile):
    nearness = []
    for candidate in candidates.double().numpy():
        cosines = [float(sum(candidate * class_text)) for class_text in id_text.double().numpy()]
        nearness.append(np.percentile(cosines, 100 * percentile, method="linear"))
    return sorted(range(len(nearness)), key=lambda i: (nearness[i], i))[:count]


@pytest.mark.parametrize("percentile", [0.0, 0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 7, 20])
def test_negative_labels_are_those_of_plain_loops(percentile, classes):
    candidates, id_text = rows(40, seed=1), rows(classes, seed=2)
    found = negatives.mine_negative_labels(candidates, id_text, 40, percentile)
    assert found.dtype == torch.int64
    assert found.tolist() == reference_labels(candidates, id_text, 40, percentile)


def test_default_percentile_is_95():
    candidates, id_text = rows(40, seed=1), rows(20, seed=2)
    assert negatives.mine_negative_labels(candidates, id_text, 40).tolist() == reference_labels(
        candidates, id_text, 40, 0.95
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_negative_labels_of_half_precision_features(dtype):
    candidates, id_text = rows(40, seed=1).to(dtype), rows(9, seed=2).to(dtype)
    assert negatives.mine_negative_labels(candidates, id_text, 9).tolist() == reference_labels(
        candidates, id_text, 9, 0.95
    )


def test_nearness_interpolates_linearly():
    # Cosines of the candidates with the two classes; their 75th percentiles are 0.5, 0.475, 0.55: not the
    # order of the lower or the nearest value, the maximum or the mean.
    cosines = torch.tensor([[0.5, 0.5], [-0.5, 0.8], [0.1, 0.7]])
    id_text = torch.eye(2)
    assert negatives.mine_negative_labels(cosines, id_text, 3, 0.75).tolist() == [1, 0, 2]


def test_ties_keep_the_order_of_the_candidates():
    eye = torch.eye(3)
    candidates = eye[[0, 1, 2, 1, 0, 2, 1] * 10]
    found = negatives.mine_negative_labels(candidates, eye[:1], 1.0).tolist()
    assert found == [i for i in range(70) if i % 7 not in (0, 4)] + [i for i in range(70) if i % 7 in (0, 4)]


@pytest.mark.parametrize("chunk", [1, 10, 35, 36])
def test_chunks_change_nothing(monkeypatch, chunk):
    candidates, id_text = rows(53, seed=1), rows(5, seed=2)
    monkeypatch.setattr("ants_lightning.method.chunks._CHUNK", chunk)
    expected = reference_labels(candidates, id_text, 53, 0.95)
    assert negatives.mine_negative_labels(candidates, id_text, 1.0).tolist() == expected


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(1, 1), (6, 6), (10, 10), (99, 10), (1.0, 10), (0.15, 2), (0.2, 2), (0.201, 3), (1e-9, 1)],
)
def test_keep_is_a_count_or_a_share_rounded_up(keep, kept):
    assert count_of(keep, 10) == kept
    found = negatives.mine_negative_labels(rows(10, seed=1), rows(3, seed=2), keep)
    assert found.tolist() == reference_labels(rows(10, seed=1), rows(3, seed=2), kept, 0.95)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.07, 7), (0.55, 55), (0.14, 14), (0.28, 28), (0.071, 8), (0.5501, 56)]
)
def test_a_share_that_divides_evenly_is_not_rounded_up(share, kept):
    # 0.07 * 100 is 7.000000000000001 in floating point.
    assert count_of(share, 100) == kept
    assert len(near_classes(rows(1)[0], rows(100), share)) == kept
    assert len(negatives.mine_negative_images(torch.linspace(0, 0.5, 100), 0.9, share)[0]) == kept


@pytest.mark.parametrize("keep", [0, -3, 0.0, -0.1, 1.5, 2.0, True, False, NAN, INF])
def test_keep_out_of_range(keep):
    for call in (lambda: count_of(keep, 5), lambda: negatives.mine_negative_labels(rows(5), rows(3), keep)):
        with pytest.raises(ValueError, match=f"keep .*{keep}"):
            call()


@pytest.mark.parametrize("percentile", [-0.1, 1.1, 95, NAN])
def test_percentile_out_of_range(percentile):
    with pytest.raises(ValueError, match=f"percentile .*{percentile}"):
        negatives.mine_negative_labels(rows(5), rows(3), 2, percentile)


def broken(value, row=2):
    features = rows(4)
    features[row, 1] = value
    return features


@pytest.mark.parametrize(
    ("candidates", "id_text", "match"),
    [
        (rows(0), rows(3), "candidate_text is empty"),
        (rows(3), rows(0), "id_text is empty"),
        (rows(3)[0], rows(3), "candidate_text .*shape"),
        (rows(3), rows(3)[None], "id_text .*shape"),
        (rows(3, 8), rows(3), "candidate_text has 8"),
        (broken(NAN), rows(3), "candidate_text .*row 2"),
        (rows(3), broken(INF, 3), "id_text .*row 3"),
    ],
)
def test_bad_features_of_labels(candidates, id_text, match):
    with pytest.raises(ValueError, match=match):
        negatives.mine_negative_labels(candidates, id_text, 2)


def reference_images(scores, gamma, eta):
    candidates = sorted((score, i) for i, score in enumerate(scores) if score < gamma)
    chosen = candidates[: math.ceil(eta * len(candidates))]
    return [i for _, i in chosen], max((score for score, _ in chosen), default=gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.875, 1.0])
@pytest.mark.parametrize("eta", [0.125, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("levels", [8, 2**20])
def test_negative_images_are_those_of_plain_loops(gamma, eta, levels):
    # 8: with ties
    scores = torch.randint(levels + 1, (101,), generator=torch.Generator().manual_seed(levels)) / levels
    indices, threshold = negatives.mine_negative_images(scores, gamma, eta)
    assert indices.dtype == torch.int64 and isinstance(threshold, float)
    assert (indices.tolist(), threshold) == reference_images(scores.tolist(), gamma, eta)


@pytest.mark.parametrize("scores", [[], [0.5, 0.75], [0.9, 1.0]])
def test_without_candidates_gamma_stays(scores):
    indices, threshold = negatives.mine_negative_images(torch.tensor(scores), 0.5, 0.5)
    assert indices.shape == (0,) and indices.dtype == torch.int64 and threshold == 0.5


@pytest.mark.parametrize(
    ("scores", "gamma", "eta", "match"),
    [
        ([0.5, NAN], 0.9, 0.5, "id_scores .*nan"),
        ([0.5, 1.5], 0.9, 0.5, "id_scores .*1.5"),
        ([-0.5, 0.5], 0.9, 0.5, "id_scores .*-0.5"),
        ([[0.5]], 0.9, 0.5, "id_scores .*shape"),
        ([0.5], -0.1, 0.5, "gamma .*-0.1"),
        ([0.5], 1.1, 0.5, "gamma .*1.1"),
        ([0.5], NAN, 0.5, "gamma .*nan"),
        ([0.5], 0.9, 0.0, "eta .*0.0"),
        ([0.5], 0.9, 1.1, "eta .*1.1"),
        ([0.5], 0.9, NAN, "eta .*nan"),
    ],
)
def test_bad_arguments_of_negative_images(scores, gamma, eta, match):
    with pytest.raises(ValueError, match=match):
        negatives.mine_negative_images(torch.tensor(scores), gamma, eta)


@pytest.mark.parametrize(("ratio", "count"), [(0.08, 2), (0.5, 7), (1.0, 13), (1e-9, 1)])
def test_similar_classes_are_those_of_largest_mean_cosine_over_the_images(ratio, count):
    images, id_text = rows(20, seed=1), rows(13, seed=2)
    means = [sum(float(v @ t) for v in images.double()) / 20 for t in id_text.double()]
    found = near_classes(images.mean(0), id_text, ratio)
    assert found.dtype == torch.int64
    assert found.tolist() == sorted(range(13), key=lambda c: -means[c])[:count]


def test_equally_similar_classes_keep_their_order():
    assert near_classes(torch.tensor([1.0, 0.0]), torch.eye(2)[[1, 0] * 20], 0.5).tolist() == list(
        range(1, 40, 2)
    )


@pytest.mark.parametrize(
    ("mean", "id_text", "ratio", "match"),
    [
        (rows(1)[0], rows(0), 0.5, "id_text is empty"),
        (rows(1)[0], rows(3), 0.0, "ratio .*0.0"),
        (rows(1)[0], rows(3), 1.01, "ratio .*1.01"),
        (rows(1)[0], rows(3), NAN, "ratio .*nan"),
        (rows(1), rows(3), 0.5, "mean_image_feature .*shape"),
        (rows(1, 8)[0], rows(3), 0.5, "mean_image_feature has 8"),
        (broken(NAN)[2], rows(3), 0.5, "mean_image_feature has NaN"),
        (rows(1)[0], broken(NAN), 0.5, "id_text .*row 2"),
    ],
)
def test_bad_arguments_of_similar_classes(mean, id_text, ratio, match):
    with pytest.raises(ValueError, match=match):
        near_classes(mean, id_text, ratio)


def reference_separation(scores):
    """By a loop over all cuts, from the definition: variance between the two sides over all of it."""
    scores, best = np.sort(np.asarray(scores, dtype=float)), 0.0
    for k in range(1, len(scores)):
        low, high = scores[:k], scores[k:]
        within = k * low.var() + (len(scores) - k) * high.var()
        best = max(best, 1 - within / (len(scores) * scores.var()))
    return best


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_separation_is_that_of_plain_loops(n):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n)) ** 3
    assert separation(scores) == pytest.approx(reference_separation(scores.tolist()), abs=1e-6)


def test_separation_of_known_shapes():
    assert separation(torch.linspace(0, 1, 10_001)) == pytest.approx(0.75, abs=1e-3)
    normal = (0.5 + 0.05 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert separation(normal) == pytest.approx(2 / math.pi, abs=0.01)
    assert separation(torch.tensor([0.25] * 3 + [0.75] * 97)) == pytest.approx(1.0)


@pytest.mark.parametrize("scores", [[], [0.5], [0.7] * 1000])
def test_scores_that_are_all_alike_are_one_heap(scores):
    assert separation(torch.tensor(scores)) == 0.0


def test_negatives_show_as_a_second_heap_or_as_a_low_median():
    spread, second = torch.linspace(0.6, 1, 900), torch.linspace(0, 0.1, 100)
    assert not shows_negatives(spread, 0.8)
    assert shows_negatives(torch.cat([spread, second]), 0.8)
    assert shows_negatives(torch.linspace(0, 0.4, 100), 0.8)
    assert not shows_negatives(torch.empty(0), 0.8)
    assert shows_negatives(spread, 0.75 - 1e-3)


@pytest.mark.parametrize(
    ("scores", "least", "match"),
    [
        ([0.5, NAN], 0.8, "id_scores .*nan"),
        ([1.5], 0.8, "id_scores .*1.5"),
        ([0.5], -0.1, "min_separation .*-0.1"),
        ([0.5], 1.1, "min_separation .*1.1"),
        ([0.5], NAN, "min_separation .*nan"),
    ],
)
def test_bad_arguments_of_shows_negatives(scores, least, match):
    with pytest.raises(ValueError, match=match):
        shows_negatives(torch.tensor(scores), least)
