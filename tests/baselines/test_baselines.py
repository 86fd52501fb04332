"""The baselines that learn nothing from the stream, against plain loops."""

import copy
import inspect
import json
import math
import re
from dataclasses import replace

import jsonargparse
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ants_lightning import baselines
from ants_lightning.baselines import (
    CSP,
    EOE,
    GLMCM,
    TANL,
    AdaNeg,
    Baseline,
    DetectorInputs,
    Energy,
    MaxLogit,
    Seen,
    csp,
    eoe,
    id_texts,
)
from ants_lightning.baselines.csp import PROMPTS
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.clip.vocabulary import Vocabulary
from ants_lightning.method.scores import group_order

ALL = ["MaxLogit", "Energy", "GLMCM", "CSP", "EOE", "AdaNeg", "TANL"]


def rows(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def encode(texts, d=16):
    """A feature a text, from its letters alone."""
    seeds = [sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31 for text in texts]
    return torch.cat([rows(1, d, seed) for seed in seeds])


def make_inputs(classes, nouns=(), adjectives=(), negatives=(), d=16, **settings):
    """What ANTS gives to `Baseline.prepare`, with features made of letters."""
    prompts = Prompts(settings.pop("id_prompt", "The {}."), "A {}.", "So {}.")
    mining = Negatives(list(nouns), list(adjectives), settings.pop("keep", 0.5), percentile=0.9)
    inputs = DetectorInputs(
        id_text=encode([prompts.id.format(name) for name in classes], d),
        negative_text=encode(negatives, d) if negatives else torch.empty(0, d),
        vocabulary=Vocabulary.read(mining, prompts).without(classes),
        mining=mining,
        temperature=0.05,
        num_groups=3,
        image_size=(4, 6),
        encode_text=lambda texts: encode(texts, d),
        encode_image=lambda images: F.normalize(images.flatten(1)[:, :d], dim=1),
    )
    return replace(inputs, **settings)


def look(inputs, features, patches=None):
    order = group_order(len(inputs.negative_text), inputs.num_groups)
    return Seen(features, features @ inputs.id_text.T, features @ inputs.negative_text[order].T, patches)


def softmax(logits):
    top = max(logits)
    mass = [math.exp(x - top) for x in logits]
    return [m / sum(mass) for m in mass]


def lse(logits):
    return max(logits) + math.log(sum(math.exp(x - max(logits)) for x in logits))


def logits(v, texts, tau):
    return [sum(float(a) * float(b) for a, b in zip(v, t, strict=True)) / tau for t in texts.tolist()]


def grouped_score(id_logits, negative_logits, num_groups):
    """NegLabel's OOD score of one image; negatives in group order."""
    runs = np.array_split(negative_logits, min(num_groups, len(negative_logits)))
    return np.mean([1 / (1 + math.exp(lse(id_logits) - lse(list(run)))) for run in runs])


def drawn_order(n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()


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
    inputs, v, patches = (
        make_inputs([f"c{i}" for i in range(c)]),
        rows(n, seed=1),
        rows(n * p, seed=2).view(n, p, -1),
    )
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


BAD = [
    (Energy, {"temperature": 0.0}),
    (Energy, {"temperature": math.nan}),
    (GLMCM, {"local_weight": -0.5}),
    (GLMCM, {"temperature": -1.0}),
    (EOE, {"beta": -0.25}),
    (EOE, {"temperature": math.inf}),
]


@pytest.mark.parametrize(("baseline", "setting"), BAD)
def test_bad_settings_are_refused_by_name_and_value(baseline, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        baseline(**setting)


@pytest.mark.parametrize("setting", [{"superclasses": ()}, {"prompts": ()}, {"prompts": ("a {}", "none")}])
def test_csp_refuses_no_superclasses_and_prompts_without_a_place(setting):
    with pytest.raises(ValueError, match=r"needed, got|hold one \{\}, got 'none'"):
        CSP(**setting)


def test_all_come_from_yaml_by_class_path():
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--baselines", type=list[Baseline])
    paths = [{"class_path": f"ants_lightning.baselines.{name}"} for name in ALL]
    paths[4]["init_args"] = {"beta": 0.5}
    made = parser.instantiate_classes(parser.parse_object({"baselines": paths})).baselines
    assert [baseline.name for baseline in made] == [
        "max_logit",
        "energy",
        "gl_mcm",
        "csp",
        "eoe",
        "adaneg",
        "tanl",
    ]
    assert made[4].beta == 0.5 and [type(baseline).__name__ for baseline in made] == ALL
    assert set(ALL) < set(baselines.__all__)
    assert all(not baseline.state_dict() and not list(baseline.parameters()) for baseline in made)


def test_a_run_under_inference_mode():
    inputs = make_inputs(["cat", "dog"], ["owl", "elk"], ["red", "big"])
    for baseline in (MaxLogit(), Energy(), GLMCM(), CSP(), EOE()):
        with torch.inference_mode():
            baseline.prepare(inputs)
            baseline.take_similar(encode(["The lynx."]))
            baseline.reset()
            first = baseline(look(inputs, rows(3), rows(6).view(3, 2, -1)))
        assert first.isfinite().all()
        baseline.prepare(inputs)
        baseline.take_similar(encode(["The lynx."]))
        assert torch.equal(baseline(look(inputs, rows(3), rows(6).view(3, 2, -1))), first)


class Own(Baseline):
    name = "own"

    def __init__(self, width, *rest, bias=0.5, **more):
        super().__init__()
        self.scale = width


class Wider(Own):
    def __init__(self, factor=2):
        super().__init__(4 * factor, other=1)
        self.learnt = 0


@pytest.mark.parametrize(
    ("baseline", "settings"),
    [
        (MaxLogit(), {}),
        (Energy(np.float32(0.5)), {"temperature": 0.5}),
        (GLMCM(2), {"local_weight": 2, "temperature": 1.0}),
        (
            CSP(("thing",), seed=np.int64(3)),
            {"superclasses": ["thing"], "prompts": list(PROMPTS), "seed": 3, "max_id_similarity": 0.95},
        ),
        (EOE(beta=0), {"beta": 0, "temperature": 1.0}),
        (
            AdaNeg(3),
            {"length": 3, "gamma": 0.5, "gap": 0.5, "sharpness": 5.5, "text_weight": 0.1, "num_groups": 5},
        ),
        (TANL(labels=4), {"labels": 4, "queue": 300, "gap": 0.2, "history": 20_000, "step": 1, "seed": 0}),
        (Own(np.array([1, 2]), 5, more="x"), {"width": [1, 2], "rest": [5], "bias": 0.5, "more": "x"}),
        (Wider(), {"factor": 2}),
    ],
)
def test_settings_are_the_arguments_before_and_after_a_run_starts(baseline, settings):
    assert baseline.settings == settings and json.loads(json.dumps(settings)) == settings
    inputs = make_inputs(["x", "y", "z"], nouns=["a", "b"], adjectives=["c"], negatives=["d", "e"])
    baseline.prepare(inputs)
    assert baseline.settings == settings == copy.deepcopy(baseline).settings
    of_class, of_init = (
        list(inspect.signature(of).parameters) for of in (type(baseline), type(baseline).__init__)
    )
    assert of_class == of_init[1:] and set(of_class) - {"more"} <= set(settings)


@pytest.mark.parametrize("bad", [True, "3", 2.5, None, [3]])
def test_what_is_no_number_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=f"length must be a whole number, got {re.escape(repr(bad))}"):
        AdaNeg(length=bad)
    if not isinstance(bad, float):
        with pytest.raises(ValueError, match=f"beta must be a number, got {re.escape(repr(bad))}"):
            EOE(beta=bad)
