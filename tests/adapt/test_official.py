"""What the authors' code does otherwise, each against plain loops, and the preset that puts it together."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
import yaml
from cli_parts import ROOT
from small import merged

from ants_lightning import NegativeMemory
from ants_lightning.adapt.bank import MemoryBank
from ants_lightning.adapt.refresh import Refresher
from ants_lightning.adapt.settings import Mining
from ants_lightning.method.near_classes import frequent_classes
from ants_lightning.method.negatives import histogram_gamma_star
from ants_lightning.method.otsu import otsu_cut
from ants_lightning.method.weight import balanced_scores


def percentile(values, share):
    values, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def plain_threshold(scores, eta):
    counts = [sum(k / 10 <= s < (k + 1) / 10 or (k == 9 and s == 1) for s in scores) for k in range(10)]
    jumps = [abs(counts[k + 1] - counts[k]) for k in range(9)]
    edge = (jumps.index(max(jumps)) + 1) / 10
    below = [s for s in scores if s < edge]
    return percentile(below, eta) if below else edge


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_histogram_gamma_star_is_that_of_plain_loops(seed, eta):
    rng = random.Random(seed)
    scores = [rng.betavariate(1, 5) for _ in range(60 * seed + 5)] + [
        rng.betavariate(9, 1) for _ in range(80)
    ]
    scores = torch.tensor(scores).tolist()
    assert histogram_gamma_star(torch.tensor(scores), eta) == pytest.approx(
        plain_threshold(scores, eta), abs=1e-6
    )


def test_histogram_gamma_star_by_hand():
    # Six below 0.1, none in (0.1, 0.9), three above 0.9: the largest jump is at 0.1, and the median of 0, …,
    # 0.05 is 0.025.
    scores = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.95, 0.97, 1.0])
    assert histogram_gamma_star(scores, 0.5) == pytest.approx(0.025)
    assert histogram_gamma_star(scores, 1.0) == pytest.approx(0.05)
    assert histogram_gamma_star(torch.full((4,), 0.95), 0.5) == 0.9  # nothing below the edge
    for bad in (0.0, 1.1):
        with pytest.raises(ValueError, match=str(bad)):
            histogram_gamma_star(scores, bad)
    with pytest.raises(ValueError, match="nan"):
        histogram_gamma_star(torch.tensor([math.nan]), 0.5)


def test_frequent_classes_are_the_most_often_predicted():
    counts = torch.tensor([3, 0, 7, 3, 1])
    assert frequent_classes(counts, 0.6).tolist() == [2, 0, 3]
    assert frequent_classes(counts, 1.0).tolist() == [2, 0, 3, 4]  # class 1 was never predicted
    with pytest.raises(ValueError, match="2"):
        frequent_classes(counts, 2)


def rows(n, seed):
    return F.normalize(torch.randn(n, 12, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("classes", "n_ens", "n_vsnl"), [(5, 12, 3), (7, 3, 2), (4, 1, 9)])
def test_balanced_scores_are_those_of_plain_loops(classes, n_ens, n_vsnl):
    images, text, ens, vsnl, tau = rows(6, 0), rows(classes, 1), rows(n_ens, 2), rows(n_vsnl, 3), 0.05
    expected = []
    for negatives in (ens.tolist(), vsnl.tolist() * 10):
        groups = max(1, len(negatives) // classes)
        order = torch.randperm(len(negatives), generator=torch.Generator().manual_seed(0)).tolist()
        size, longer = divmod(len(order), groups)
        sizes = [size + 1] * longer + [size] * (groups - longer)
        for v in images.tolist():
            positive = sum(
                math.exp(sum(a * b for a, b in zip(v, t, strict=True)) / tau) for t in text.tolist()
            )
            start, total = 0, 0.0
            for n in sizes:
                run = [negatives[i] for i in order[start : start + n]]
                negative = sum(math.exp(sum(a * b for a, b in zip(v, t, strict=True)) / tau) for t in run)
                total += negative / (negative + positive)
                start += n
            expected.append(total / groups)
    found = balanced_scores(images, text, ens, vsnl, tau)
    torch.testing.assert_close(found, torch.tensor(expected).view(2, -1).T, rtol=1e-4, atol=1e-6)


def bank_rows(scores, first=0):
    n = len(scores)
    return {
        "index": first + torch.arange(n),
        "id_score": torch.tensor(scores),
        "owner": torch.zeros(n, dtype=torch.long),
        "prediction": torch.arange(n) % 3,
        "features": torch.ones(n, 4),
    }


def test_the_bank_admits_by_the_threshold_of_its_time():
    bank = MemoryBank(4, Mining(gamma=0.8, eta=0.5, rule="histogram"), classes=5)
    bank.add(bank_rows([0.01, 0.03, 0.5, 0.95, 0.95, 0.95, 0.95]))
    assert bank.rows["index"].tolist() == bank.mine().tolist() == [0, 1, 2] and bank.gamma_star == 0.8
    assert bank.predicted.tolist() == [3, 2, 2, 0, 0]
    # Counts 2, 0, …, 1, …, 4: the largest jump is at 0.9; the median of the three scores below is 0.03.
    bank.move_gamma_star()
    assert bank.gamma_star == pytest.approx(0.03)
    bank.add(bank_rows([0.02, 0.5], first=7))
    assert bank.rows["index"].tolist() == [0, 1, 2, 7] and bank.n_negative == 3
    assert len(bank.mine()) == bank.n_negative == 4


def test_a_refresh_waits_for_candidates_and_there_are_only_so_many(run):
    _, _, results = run(schedule={"min_candidates": 10_000}, ens={"init": "empty"})
    assert all(stream["n_ens"] == 0 < stream["n_vsnl"] for stream in results["streams"].values())
    _, _, once = run(schedule={"max_refreshes": 1}, ens={"init": "empty"})
    _, _, ever = run(ens={"init": "empty"})
    for name, stream in once["streams"].items():
        assert 0 < stream["n_ens"] < ever["streams"][name]["n_ens"] and stream["n_vsnl"] > 0
    assert run(schedule={"max_refreshes": 0}, ens={"init": "empty"})[2]["streams"]["scenes"]["n_ens"] == 0


def test_the_official_preset_on_the_demo(run):
    config = yaml.safe_load((ROOT / "configs/method/official.yaml").read_text())
    settings = merged({"schedule": {"min_candidates": 5}, "vsnl": {"delta": 0.3}}, config["memory"])
    memory, model, results = run(**settings)
    stream = results["streams"]["scenes"]
    assert stream["n_ens"] > 0 < stream["n_vsnl"] and stream["gamma"] != 0.8
    assert stream["lambda"] == stream["lambda_balanced"] != stream["lambda_paper"]
    # λ again, from the scores of the batches, is a mean over all images: between 0 and 1 and not 0.5 by
    # default.
    assert 0 < stream["lambda"] < 1 and stream["lambda"] != 0.5
    near = frequent_classes(memory.bank.predicted, 0.3).tolist()
    assert set(memory.answers) >= {model.class_names[c] for c in near}


def test_balanced_weight_is_the_mean_over_all_images_seen(run):
    memory, _, results = run(weight="balanced", schedule={"every": 4, "min_images": 1})
    # The last of 8 batches was scored with the spaces of batch 4; its evidence and that of 5 to 7 came in at
    # the last sync point.
    assert results["streams"]["scenes"]["lambda"] == pytest.approx(
        float(memory.refresher.weighing.balanced[0] / memory.refresher.weighing.balanced.sum())
    ) and float(memory.refresher.weighing.balanced.max()) < len(memory.bank.history)


def plain_activation(images, text, sentences, tau):
    total = [0.0] * len(sentences)
    for v in images:
        masses = [math.exp(sum(a * b for a, b in zip(v, t, strict=True)) / tau) for t in [*text, *sentences]]
        for i, mass in enumerate(masses[len(text) :]):
            total[i] += mass / sum(masses) / len(images)
    return total


def test_activated_sentences_score_ens(run, monkeypatch):
    seen = []
    rank = Refresher._rank_ens
    monkeypatch.setattr(
        Refresher, "_rank_ens", lambda refresher, rows: (rank(refresher, rows), seen.append(rows))[0]
    )
    memory, model, results = run(ens={"activated": 25})
    assert results["settings"]["memory"]["ens"]["activated"] == 25
    scores, last = memory.bank.history, seen[-1]
    cut = otsu_cut(scores)
    low = [
        v for v, s in zip(last["features"].tolist(), last["id_score"].tolist(), strict=True) if s < cut / 2
    ]
    high = [
        v
        for v, s in zip(last["features"].tolist(), last["id_score"].tolist(), strict=True)
        if s >= (1 + cut) / 2
    ]
    assert low and high
    texts = (model.spaces.id_text.tolist(), model.spaces.ens.features.tolist())
    tau = model.hparams["temperature"]
    gain = [
        a - b
        for a, b in zip(plain_activation(low, *texts, tau), plain_activation(high, *texts, tau), strict=True)
    ]
    best = sorted(range(len(gain)), key=lambda i: -gain[i])[:25]
    assert model.spaces.ens_ranked.tolist() == best
    image = last["features"][:1]
    logits = (
        (image @ torch.cat([model.spaces.id_text, model.spaces.ens.features[best]]).T / tau)
        .double()[0]
        .exp()
        .tolist()
    )
    known, ranked = sum(logits[: len(model.spaces.id_text)]), logits[len(model.spaces.id_text) :]
    expected = sum(sum(ranked[:m]) / (sum(ranked[:m]) + known) for m in (*range(2, 25, 2), 25)) / 13
    assert model.score(image)["scores"]["ens"].item() == pytest.approx(expected, rel=1e-4)
    plain = run()[2]
    assert plain["streams"]["scenes"]["scores"]["vsnl"] == results["streams"]["scenes"]["scores"]["vsnl"]
    assert plain["streams"]["scenes"]["scores"]["ens"] != results["streams"]["scenes"]["scores"]["ens"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mining": {"rule": "edge"}}, "mining.rule .*'edge'"),
        ({"vsnl": {"choose": "far"}}, "vsnl.choose .*'far'"),
        ({"schedule": {"min_candidates": -1}}, "schedule.min_candidates .*-1"),
        ({"schedule": {"max_refreshes": -2}}, "schedule.max_refreshes .*-2"),
        ({"weight": "mean"}, "'mean'"),
        ({"ens": {"activated": 0}}, "ens.activated must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, match):
    with pytest.raises(ValueError, match=match):
        NegativeMemory(None, **settings)
