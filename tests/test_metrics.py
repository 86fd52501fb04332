import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ants_lightning.metrics import OODMetrics, detection_metrics

NAN = float("nan")


def reference(scores, is_ood):
    """The metrics by scikit-learn, in float64."""
    s, ood = scores.double().numpy(), is_ood.numpy()
    fpr_id, tpr_id, _ = roc_curve(~ood, -s, drop_intermediate=False)  # ID positive
    fpr_ood, tpr_ood, _ = roc_curve(ood, s, drop_intermediate=False)  # OOD positive
    return {
        "auroc": roc_auc_score(ood, s),
        "fpr95": fpr_id[np.argmax(tpr_id >= 0.95)],
        "fpr95_openood": fpr_ood[np.argmax(tpr_ood >= 0.95)],
        "aupr_in": average_precision_score(~ood, -s),
        "aupr_out": average_precision_score(ood, s),
    }


def stream(n_id, n_ood, shift=1.0, seed=0):
    """Normal scores, those of OOD higher by `shift`, in a mixed order."""
    generator = torch.Generator().manual_seed(seed)
    is_ood = torch.randperm(n_id + n_ood, generator=generator) >= n_id
    return torch.randn(n_id + n_ood, generator=generator) + shift * is_ood, is_ood


SCORES = {
    "in the unit interval": lambda s: s.sigmoid(),
    "outside of it": lambda s: 50 * s,
    "negative": lambda s: s - 100,
    "tied": lambda s: (2 * s).round() / 8,
    "1e-9 apart near 0": lambda s: ((s * 8).round() + 40) * 1e-9,
    "near 1": lambda s: 1 - (40 - (s * 8).round()) * 2**-24,
    "tiny": lambda s: torch.exp(s * 8 - 60),
    "mostly saturated": lambda s: (s * 40).sigmoid(),
    "all equal": lambda s: torch.zeros_like(s),
    "infinite at the ends": lambda s: torch.where(s > 2, torch.inf, torch.where(s < -1, -torch.inf, s)),
    "apart by less than float32 tells": lambda s: s.double() * 1e-12 + 1,
    "exactly 0 or 1 but for a few": lambda s: (s * 40).clamp(0, 1),
    "exactly 0 or 1": lambda s: (s > 0.5).float(),
}


SIZES = [(300, 300), (400, 20), (20, 400), (37, 53), (1, 1), (1, 30), (30, 1), (3_000, 3), (3, 3_000)]


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("n_id", "n_ood"), SIZES)
def test_metrics_are_those_of_sklearn(kind, n_id, n_ood):
    scores, is_ood = stream(n_id, n_ood, seed=n_id)
    scores = SCORES[kind](scores)
    finite = scores.nan_to_num(posinf=1e9, neginf=-1e9)  # scikit-learn refuses infinities
    assert detection_metrics(scores, is_ood) == pytest.approx(reference(finite, is_ood), abs=2e-6)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 8.0])
def test_metrics_of_bad_chance_and_perfect_scores(shift):
    scores, is_ood = stream(200, 150, shift)
    found = detection_metrics(scores, is_ood)
    assert found == pytest.approx(reference(scores, is_ood), abs=2e-6)
    if shift > 5:
        assert found == {"auroc": 1, "fpr95": 0, "fpr95_openood": 0, "aupr_in": 1, "aupr_out": 1}


def test_the_two_fpr95_by_hand():
    # 20 ID at 0, 1, …, 19; OOD at 18.5, and 19 more at 7.5. 95 % of ID lie up to 18, with all OOD but the
    # first; 95 % of OOD lie from 7.5 on, with the 12 ID above.
    scores = torch.tensor([*range(20), 18.5, *[7.5] * 19])
    is_ood = torch.arange(40) >= 20
    found = detection_metrics(scores, is_ood)
    assert found["fpr95"] == pytest.approx(19 / 20, abs=1e-6)
    assert found["fpr95_openood"] == pytest.approx(12 / 20, abs=1e-6)
    assert found["auroc"] == pytest.approx((19 + 19 * 8) / 400, abs=1e-6)  # pairs in the right order


@pytest.mark.parametrize("n", range(20, 620, 60))
def test_exactly_95_percent_is_enough(n):
    most = n * 19 // 20  # of the positives lie on the right side of all negatives
    scores = torch.cat([torch.zeros(most), torch.full((10,), 0.5), torch.ones(n - most)])
    middle = scores == 0.5
    assert detection_metrics(scores, middle)["fpr95"] == 0
    assert detection_metrics(-scores, ~middle)["fpr95_openood"] == 0
    scores[0] = 1.0  # one too few
    assert detection_metrics(scores, middle)["fpr95"] == 1
    assert detection_metrics(-scores, ~middle)["fpr95_openood"] == 1


def filled(parts, names=("a", "b")):
    metric = OODMetrics(names)
    for scores, label, prediction in parts:
        metric.update(scores, label, prediction)
    return metric


def example(n=90):
    scores, is_ood = stream(n - n // 3, n // 3)
    generator = torch.Generator().manual_seed(1)
    label = torch.where(is_ood, -1, torch.randint(5, (n,), generator=generator))
    prediction = torch.randint(5, (n,), generator=generator)
    return torch.stack([scores, -scores * 1e-8], 1), label, prediction


def test_every_score_of_a_stream_is_measured_under_its_name():
    scores, label, prediction = example()
    found = filled([(scores, label, prediction)]).compute()
    assert (found["n_id"], found["n_ood"]) == (60, 30)
    right = sum(int(y) == int(p) for y, p in zip(label, prediction, strict=True) if y >= 0)
    assert found["id_accuracy"] == pytest.approx(right / 60)
    assert list(found["scores"]) == ["a", "b"]
    for i, name in enumerate("ab"):
        assert found["scores"][name] == pytest.approx(reference(scores[:, i], label < 0), abs=2e-6)


@pytest.mark.parametrize("size", [1, 7, 89])
def test_batches_give_what_the_whole_stream_gives(size):
    whole = example()
    parts = zip(*(x.split(size) for x in whole), strict=True)
    assert filled(parts).compute() == filled([whole]).compute()


def test_reset_forgets_and_the_next_stream_is_measured_alone():
    metric = filled([example(60)])
    metric.reset()
    metric.update(*example(90))
    assert metric.compute() == filled([example(90)]).compute()


def test_accuracy_is_of_id_images_alone_and_any_negative_label_is_ood():
    label, prediction = torch.tensor([0, 1, 2, 1, -1, -7]), torch.tensor([0, 1, 1, 1, 0, 1])
    found = filled([(torch.arange(6.0)[:, None], label, prediction)], ["a"]).compute()
    assert (found["n_id"], found["n_ood"]) == (4, 2)
    assert found["id_accuracy"] == 0.75


def test_nan_scores_are_counted_in_the_error():
    scores, is_ood = stream(10, 10)
    scores[3:5] = NAN
    with pytest.raises(ValueError, match=r"2 of 20 .*NaN"):
        detection_metrics(scores, is_ood)
    with pytest.raises(ValueError, match="NaN"):
        filled([(scores[:, None], -is_ood.long(), is_ood.long())], ["a"]).compute()


@pytest.mark.parametrize("ood", [False, True])
def test_a_stream_of_one_class_is_an_error(ood):
    match = "0 ID and 4 OOD" if ood else "4 ID and 0 OOD"
    with pytest.raises(ValueError, match=match):
        detection_metrics(torch.rand(4), torch.full((4,), ood))
    with pytest.raises(ValueError, match=match):
        filled([(torch.rand(4, 1), torch.full((4,), -int(ood)), torch.zeros(4))], ["a"]).compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_an_empty_stream_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        OODMetrics(["a"]).compute()
    with pytest.raises(ValueError, match="0 ID and 0 OOD"):
        detection_metrics(torch.empty(0), torch.empty(0, dtype=torch.bool))


@pytest.mark.parametrize(
    ("scores", "label", "prediction"),
    [
        ((4, 3), (4,), (4,)),
        ((4,), (4,), (4,)),
        ((3, 2), (4,), (4,)),
        ((4, 2), (4,), (3,)),
        ((4, 2), (4, 1), (4, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_named_and_not_taken(scores, label, prediction):
    metric = filled([example()])
    with pytest.raises(ValueError, match=rf"scores \(n, 2\).*{scores[0]}"):
        metric.update(torch.rand(scores), torch.zeros(label).long(), torch.zeros(prediction).long())
    assert metric.compute() == filled([example()]).compute()


SETS = ["near", "texts [b]", "far"]


def mixture(n=240, absent=()):
    """ID, and the OOD sets 0, 1, 2 with unlike scores, in a mixed order."""
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(-3, 4, (n,), generator=generator)
    for ood_set in absent:
        label[label == -1 - ood_set] = 0
    scores = torch.randn(n, 2, generator=generator) - 0.7 * label.clamp(max=0)[:, None]
    return scores, label, torch.randint(4, (n,), generator=generator)


def test_each_ood_set_of_a_stream_is_measured_against_all_id_images():
    scores, label, prediction = mixture()
    metric = OODMetrics("ab", SETS)
    for part in zip(*(x.split(50) for x in (scores, label, prediction)), strict=True):
        metric.update(*part)
    found = metric.compute()
    sets = found.pop("sets")
    assert found == filled([(scores, label, prediction)]).compute()  # which is all that is told without names
    assert list(sets) == SETS
    for number, (name, of) in enumerate(sets.items()):
        rows = [i for i, y in enumerate(label.tolist()) if y >= 0 or y == -1 - number]
        assert of["n_ood"] == label.tolist().count(-1 - number)
        for i, score in enumerate("ab"):
            assert of["scores"][score] == pytest.approx(
                reference(scores[rows, i], label[rows] < 0), abs=2e-6
            ), (name, score)


def test_ood_sets_by_hand():
    # ID at 1 and 2; set a at 3 and 1.5: 3 of 4 pairs are in order; set b at 0: none is
    label = torch.tensor([0, 0, -1, -1, -2])
    metric = OODMetrics(["s"], ["a", "b"])
    metric.update(torch.tensor([1, 2, 3, 1.5, 0])[:, None], label, label)
    found = metric.compute()
    auroc = {name: (of["n_ood"], of["scores"]["s"]["auroc"]) for name, of in found["sets"].items()}
    assert auroc == {"a": (2, 0.75), "b": (1, 0.0)}
    assert (found["n_ood"], found["scores"]["s"]["auroc"]) == (3, 0.5)


@pytest.mark.parametrize(("absent", "left"), [([1], ["near", "far"]), ([0], SETS[1:]), ([1, 2], ["near"])])
def test_an_ood_set_of_which_no_image_came_is_left_out(absent, left):
    metric = OODMetrics("ab", SETS)
    metric.update(*mixture(absent=absent))
    assert list(metric.compute()["sets"]) == left


def test_one_ood_set_is_the_stream():
    scores, label, prediction = example()
    metric = OODMetrics("ab", ["one"])
    metric.update(scores, label, prediction)
    assert metric.compute() == filled([(scores, label, prediction)]).compute()


@pytest.mark.parametrize(("names", "label"), [(SETS, -4), (SETS[:2], -3), (["one"], -2)])
def test_a_label_beyond_the_ood_sets_is_named_and_not_taken(names, label):
    metric = OODMetrics(["a"], names)
    metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, -1]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=f"label {label} with {len(names)} OOD sets.*{names[0]}"):
        metric.update(torch.rand(2, 1), torch.tensor([-1, label]), torch.zeros(2).long())
    metric.update(torch.rand(0, 1), torch.empty(0).long(), torch.empty(0).long())
    assert metric.compute()["n_ood"] == 1


def test_ood_sets_of_the_same_name_are_an_error():
    with pytest.raises(ValueError, match=r"must differ.*'a', 'a'"):
        OODMetrics(["s"], ["a", "a"])
