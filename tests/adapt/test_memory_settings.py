"""Settings of the memory and of the model."""

import re

import pytest
from small import merged

from ants_lightning import ANTS, NegativeMemory, demo
from ants_lightning.demo.shapes import ID_CLASSES


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": {"every": 0}},
        {"ens": {"size": 0}},
        {"mining": {"gamma": 1.5}},
        {"mining": {"eta": 0.0}},
        {"vsnl": {"delta": 2.0}},
        {"ens": {"init": "x"}},
        {"weight": "y"},
        {"on_failure": "z"},
        {"hygiene": {"max_id_similarity": 1.5}},
    ],
)
def test_settings_out_of_range_are_named(settings):
    ((name, value),) = settings.items()
    if isinstance(value, dict):
        ((key, value),) = value.items()
        name = f"{name}.{key}"
    with pytest.raises(ValueError, match=rf"^{name} must .*{value}"):
        NegativeMemory(None, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mining": {"gamma": -1}}, r"mining.gamma must lie in [0, 1], got -1"),
        ({"mining": {"eta": 0}}, r"mining.eta must lie in (0, 1], got 0"),
        ({"vsnl": {"delta": 1.5}}, r"vsnl.delta must lie in (0, 1], got 1.5"),
        ({"ens": {"size": 2.5}}, "ens.size must be a whole number, got 2.5"),
        ({"vsnl": {"show_images": 1}}, "vsnl.show_images must be true or false, got 1"),
        ({"ens": {"sise": 1}}, "ens has no setting 'sise'; it has size, init, activated"),
        (
            {"hygiene": True},
            "hygiene must be a HygieneSettings or a dict of names, max_id_similarity, got True",
        ),
    ],
)
def test_errors_name_settings_as_they_are_written(settings, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        NegativeMemory(None, **settings)


def test_memory_needs_negative_labels(run):
    with pytest.raises(ValueError, match="nouns or adjectives"):
        run(model=ANTS(demo.CLIP))


def test_no_id_class_name_becomes_a_negative_label():
    model = ANTS(
        demo.CLIP,
        class_names=["star", "ring"],
        negatives={"nouns": ["STAR", "comb", "Ring", "gear"], "adjectives": ["star"], "keep": 1.0},
    )
    model.setup("test")
    model.prepare()
    assert sorted(model.spaces.neglabel.labels) == ["The nice comb.", "The nice gear."]


def test_without_the_callback_it_is_an_mcm_and_neglabel_evaluator(small_demo, tmp_path):
    import lightning as L

    model = ANTS(demo.CLIP)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    logged = trainer.test(model, small_demo, verbose=False)[0]
    assert list(model.results["scenes"]["scores"]) == ["mcm"] and "test/far/scenes/mcm/auroc" in logged
    rows = trainer.predict(ANTS(demo.CLIP, negatives=demo.WORDS), small_demo)[0][0]
    assert rows["class_name"][0] in ID_CLASSES and set(rows["scores"]) == {
        "mcm",
        "neglabel",
        "ens",
        "vsnl",
        "ants",
    }


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, value) for name in ("temperature", "mcm_temperature") for value in (0.0, float("nan"))),
        ("num_groups", 0),
        ("vsnl_groups", 0),
        ("negatives.keep", 1.5),
        ("prompts.id", "no place for a name"),
    ],
)
def test_model_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{re.escape(setting)}.*{value}"):
        ANTS(demo.CLIP, **merged({setting: value}, {}))
