"""The baselines that learn nothing from the stream, against plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_parts import drawn_order, encode, grouped_score, logits, look, lse, make_inputs, rows, softmax

from ants_lightning.baselines import (
    CSP,
    EOE,
    GLMCM,
    Energy,
    MaxLogit,
    csp,
    eoe,
    id_texts,
)


@pytest.mark.parametrize(("n", "c", "tau"), [(1, 1, 0.01), (5, 3, 0.05), (7, 40, 1.0)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_max_logit_and_energy_are_those_of_plain_loops(n, c, tau, temperature):
    inputs, v = make_inputs([f"c{i}" for i in range(c)], temperature=tau), rows(n, seed=1)
    max_logit, energy = MaxLogit(), Energy(temperature)
    for baseline in (max_logit, energy):
        baseline.prepare(inputs)
    each = [logits(image, inputs.id_text, tau) for image in v.tolist()]
    np.testing.assert_allclose(max_logit(look(inputs, v)), [-max(f) for f in each], rtol=1e-5)
    expected = [-temperature * lse([x / temperature for x in f]) for f in each]
    np.testing.assert_allclose(energy(look(inputs, v)), expected, rtol=1e-5)


def test_energy_tells_apart_what_float32_ties():
    near = torch.tensor([[30.0, 10.0], [30.0, 10.5], [30.0, 11.0]])
    assert len(set(near.logsumexp(1).tolist())) == 1
    assert id_texts.energy_score(near).argsort().tolist() == [2, 1, 0]
    assert len(set(id_texts.energy_score(near).tolist())) == 3


@pytest.mark.parametrize(("n", "p", "c"), [(1, 1, 1), (4, 9, 3), (3, 4, 25)])
@pytest.mark.parametrize(("weight", "tau"), [(1.0, 1.0), (0.5, 0.1), (0.0, 0.01)])
@pytest.mark.parametrize("chunk", [1, 8_000_000])
def test_gl_mcm_is_that_of_plain_loops(n, p, c, weight, tau, chunk, monkeypatch):
    monkeypatch.setattr("ants_lightning.method.chunks._CHUNK", chunk)
    inputs = make_inputs([f"c{i}" for i in range(c)])
    v = rows(n, seed=1)
    patches = rows(n * p, seed=2).view(n, p, -1)
    baseline = GLMCM(weight, tau)
    baseline.prepare(inputs)
    expected = []
    for image, places in zip(v.tolist(), patches.tolist(), strict=True):
        best = max(max(softmax(logits(place, inputs.id_text, tau))) for place in places)
        expected.append(1 - max(softmax(logits(image, inputs.id_text, tau))) + weight * (1 - best))
    found = baseline(look(inputs, v, patches))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found.shape == (n,) and found.dtype == torch.float64


def test_gl_mcm_with_equal_patches_and_no_patches():
    inputs, v = make_inputs(["a", "b", "c"]), rows(2, seed=1)
    baseline = GLMCM(local_weight=1.0)
    baseline.prepare(inputs)
    mcm = [1 - max(softmax(logits(image, inputs.id_text, 1.0))) for image in v.tolist()]
    np.testing.assert_allclose(
        baseline(look(inputs, v, v[:, None].expand(-1, 5, -1))), 2 * np.array(mcm), rtol=1e-6
    )
    with pytest.raises(ValueError, match="patch features"):
        baseline(look(inputs, v))


def near(candidate, id_text, percentile):
    return np.quantile(logits(candidate, id_text, 1.0), percentile)


def mined(features, id_text, keep, percentile, limit):
    count = math.ceil(keep * len(features) - 1e-9)
    apart = [f for f in features.tolist() if limit is None or max(logits(f, id_text, 1.0)) <= limit]
    return sorted(apart, key=lambda f: near(f, id_text, percentile))[:count]


@pytest.mark.parametrize(("nouns", "adjectives", "groups"), [(9, 7, 3), (1, 1, 5), (12, 20, 1)])
@pytest.mark.parametrize("limit", [None, 0.4])
def test_csp_is_that_of_plain_loops(nouns, adjectives, groups, limit):
    words = [f"noun{i}" for i in range(nouns)], [f"adj{i}" for i in range(adjectives)]
    inputs, v = make_inputs(["cat", "dog", "bat"], *words, num_groups=groups), rows(5, seed=3)
    baseline = CSP(("thing", "place"), ("{}", "my {}"), seed=4, max_id_similarity=limit)
    baseline.prepare(inputs)
    pool = csp.conjugate(words[1], ("thing", "place"), 4)
    assert all(
        label in (f"{adjective} thing", f"{adjective} place")
        for label, adjective in zip(pool, words[1], strict=True)
    )
    conjugated = []
    for label in pool:
        mean = (encode([label])[0] + encode([f"my {label}"])[0]) / 2
        conjugated.append(mean / sum(float(x) ** 2 for x in mean) ** 0.5)
    parts = encode([f"A {word}." for word in words[0]]), torch.stack(conjugated)
    negatives = [label for part in parts for label in mined(part, inputs.id_text, 0.5, 0.9, limit)]
    negatives = torch.tensor([negatives[i] for i in drawn_order(len(negatives))])
    assert baseline.negative_text.shape == negatives.shape
    expected = [
        grouped_score(logits(x, inputs.id_text, 0.05), logits(x, negatives, 0.05), groups) for x in v.tolist()
    ]
    np.testing.assert_allclose(baseline(look(inputs, v)), expected, rtol=2e-5)


def test_csp_draws_superclasses_with_its_own_seed_and_leaves_the_global_one_alone():
    words = [f"w{i}" for i in range(2000)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (csp.conjugate(words, csp.SUPERCLASSES, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first == again != other
    drawn = [label.split()[1] for label in first]
    counts = [drawn.count(name) for name in csp.SUPERCLASSES]
    assert len(counts) == 14 and sum(counts) == 2000 and 80 < min(counts) <= max(counts) < 210


def test_csp_drops_id_names_and_labels_like_them():
    inputs = make_inputs(["cat", "dog"], ["Cat", "owl", "elk"], ["DOG", "red"], keep=1.0, id_prompt="A {}.")
    baseline = CSP(("x",), ("{}",))
    baseline.prepare(inputs)
    assert len(baseline.negative_text) == 3  # owl, elk, red x
    baseline.prepare(
        replace(
            inputs,
            encode_text=lambda texts: encode(["A cat." if text == "A owl." else text for text in texts]),
        )
    )
    assert len(baseline.negative_text) == 2  # a text like that of an ID class
    CSP(("x",), ("{}",), max_id_similarity=None).prepare(inputs)
    inputs = replace(inputs, encode_text=lambda texts: encode(["A cat."] * len(texts)))
    with pytest.raises(ValueError, match=r"all 2 candidates have a cosine above 0\.95"):
        baseline.prepare(inputs)


@pytest.mark.parametrize(
    ("nouns", "adjectives", "numbers"),
    [((), ("red",), "0 and 1"), (("owl",), (), "1 and 0"), (("A",), ("b",), "0 and 1")],
)
def test_csp_needs_nouns_and_adjectives(nouns, adjectives, numbers):
    with pytest.raises(ValueError, match=f"csp needs nouns and adjectives, ANTS has {numbers}"):
        CSP().prepare(make_inputs(["a"], nouns, adjectives))


@pytest.mark.parametrize(("k", "outliers"), [(1, 1), (3, 2), (4, 30)])
@pytest.mark.parametrize(("beta", "tau"), [(0.25, 1.0), (0.0, 0.1), (2.0, 0.02)])
def test_eoe_is_that_of_plain_loops(k, outliers, beta, tau):
    names = [f"class{i}" for i in range(k)]
    inputs, v = make_inputs(names), rows(6, seed=5)
    baseline = EOE(beta, tau)
    baseline.prepare(inputs)
    before = [1 - max(softmax(logits(x, inputs.id_text, tau))) for x in v.tolist()]
    np.testing.assert_allclose(baseline(look(inputs, v)), before, rtol=2e-5, atol=1e-12)
    labels = [f"other{i}" for i in range(outliers)]
    baseline.take_similar(encode([f"The {label}." for label in labels]))
    expected = []
    for x in v.tolist():
        p = softmax(
            logits(x, inputs.id_text, tau) + logits(x, encode([f"The {label}." for label in labels]), tau)
        )
        expected.append(1 - max(p[:k]) + beta * max(p[k:]))
    found = baseline(look(inputs, v))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-9)
    baseline.reset()  # what the LLM said is no stream's
    assert torch.equal(baseline(look(inputs, v)), found)
    baseline.prepare(inputs)
    np.testing.assert_allclose(baseline(look(inputs, v)), before, rtol=2e-5, atol=1e-12)


def test_eoe_without_labels_gives_a_score():
    inputs, baseline = make_inputs(["cat", "hot dog"]), EOE()
    baseline.prepare(inputs)
    baseline.take_similar(encode(["The lynx."]))
    assert torch.equal(baseline.outlier_text, encode(["The lynx."]))
    baseline.take_similar(inputs.id_text[:0])
    assert len(baseline.outlier_text) == 0
    assert baseline(look(inputs, rows(2))).shape == (2,)


def test_eoe_is_exact_where_the_softmax_saturates():
    ids, outliers = torch.tensor([[0.0, -40.0], [-900.0, -1000.0]]), torch.tensor([[-50.0], [900.0]])
    found = eoe.eoe_score(ids, outliers, beta=0.5)
    expected = [(math.exp(-40) + 1.5 * math.exp(-50)) / (1 + math.exp(-40) + math.exp(-50)), 1.5]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    tied = eoe.eoe_score(torch.zeros(1, 3), torch.zeros(1, 2), beta=1.0)
    np.testing.assert_allclose(tied, [1.0])
