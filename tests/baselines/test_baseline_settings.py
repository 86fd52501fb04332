"""Settings of baselines: what is refused, kept, and given in YAML."""

import copy
import inspect
import json
import math
import re

import jsonargparse
import numpy as np
import pytest
import torch
from baseline_parts import encode, look, make_inputs, rows

from ants_lightning import baselines
from ants_lightning.baselines import (
    CSP,
    EOE,
    GLMCM,
    TANL,
    AdaNeg,
    Baseline,
    Energy,
    MaxLogit,
)
from ants_lightning.baselines.csp import PROMPTS

ALL = ["MaxLogit", "Energy", "GLMCM", "CSP", "EOE", "AdaNeg", "TANL"]


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
