"""A model takes ordinary Python, and refuses what cannot be."""

import json
import os
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from plain_parts import NAMES
from small import merged

from ants_lightning import ANTS, demo
from ants_lightning.baselines import MaxLogit
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.decide.threshold import Decision
from ants_lightning.spaces.text_space import TextSpace


def make(**settings):
    return ANTS(demo.CLIP, pretrained=None, **merged(settings, demo.SETTINGS["model"]))


ORDINARY = {
    "class_names": [
        np.array(NAMES),
        pd.Series(NAMES, index=[5, 2]),
        pd.Index(NAMES),
        tuple(NAMES),
        {"star": 0, "ring": 1}.keys(),
        ["star\n", " ring"],
    ],
    "negatives.nouns": [
        np.array(["gear", "tent"]),
        pd.Series(["gear", "tent"]),
        ("gear", "tent"),
        ["gear\n", "tent\n", "\n", "gear"],
    ],
    "negatives.keep": [np.int64(2), torch.tensor(2), np.array(2)],
    "num_groups": [np.int32(3)],
    "temperature": [np.float32(0.5), torch.tensor(0.5)],
    "threshold": [np.float32(0.5)],
    "text_batch_size": [np.uint8(4)],
}


PLAIN = {
    "class_names": NAMES,
    "negatives.nouns": ["gear", "tent"],
    "negatives.keep": 2,
    "num_groups": 3,
    "temperature": 0.5,
    "threshold": 0.5,
    "text_batch_size": 4,
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ORDINARY.items() for value in values]
)
def test_a_model_takes_what_ordinary_python_gives(name, value, tmp_path):
    model = make(**{"class_names": NAMES, "negatives.nouns": ["gear", "tent"], name: value})
    model.setup("test")
    assert model.class_names == NAMES and model.vocabulary.nouns == ["gear", "tent"]
    group, _, setting = name.partition(".")
    found = model.hparams[group][setting] if setting else model.hparams[name]
    assert type(found) is type(PLAIN[name]) and (
        name in ("class_names", "negatives.nouns") or found == PLAIN[name]
    )
    for hparams in (model.hparams, model.hparams_initial):
        assert (
            yaml.safe_load(yaml.safe_dump(dict(hparams)))
            == dict(hparams)
            == json.loads(json.dumps(dict(hparams)))
        )
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = ANTS.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again.setup("test")
    assert dict(again.hparams) == dict(model.hparams) and again.class_names == NAMES


BAD = [
    ({"temperature": True}, "temperature must be a number, got True"),
    ({"temperature": "0.01"}, "temperature .* got '0.01'"),
    ({"negatives.keep": True}, r"negatives\.keep .* got True"),
    ({"negatives.keep": "10"}, "keep .* got '10'"),
    ({"negatives.keep": None}, "keep .* got None"),
    ({"num_groups": 2.5}, "num_groups must be a whole number, got 2.5"),
    ({"num_groups": True}, "num_groups .* got True"),
    ({"vsnl_groups": 0}, "vsnl_groups must be at least 1, got 0"),
    ({"text_batch_size": 0}, "text_batch_size .* got 0"),
    ({"negatives.percentile": 95}, r"negatives\.percentile must lie in \[0, 1\], got 95"),
    ({"mcm_temperature": np.inf}, "mcm_temperature .* got inf"),
    ({"prompts.id": None}, r"prompts\.id must hold one {}, got None"),
    ({"prompts.noun": "a"}, r"prompts\.noun .* got 'a'"),
    ({"text_cache": 3}, "text_cache must be a name or path, got 3"),
    ({"spaces": ["a"]}, r"spaces .* got \['a'\]"),
    ({"class_names": {"star", "ring"}}, "class_names must be a list .* set"),
    ({"class_names": {"star": 0}}, "class_names .* dict"),
    ({"class_names": iter(NAMES)}, "class_names must be a list"),
    ({"class_names": 3}, "class_names must be a list .* int 3"),
    ({"class_names": []}, "no class names"),
    ({"class_names": np.array([])}, "no class names"),
    ({"class_names": [1, 2]}, "class name 0 .* 1"),
    ({"class_names": pd.Series(["a", None])}, "class name 1 .*(None|nan)"),
    ({"class_names": ["star", "ring", "star\n"]}, r"class name 2 .* given twice: 'star\\n'"),
    ({"class_names": ["a\x1b[31mb"]}, r"class name 0 holds '\\x1b'"),
    ({"class_names": ["a\udce9"]}, r"class name 0 holds '\\udce9'"),
    ({"class_names": "absent.txt"}, "class_names: no such file: 'absent.txt'"),
    ({"threshold": np.float32(1.5)}, "threshold .* got 1.5"),
    ({"threshold": True}, "threshold .* got True"),
    ({"baselines": MaxLogit()}, "baselines must be a list"),
    ({"baselines": ["MaxLogit"]}, "baselines must be a list"),
    ({"baselines": [MaxLogit]}, "baselines must be a list"),
]


@pytest.mark.parametrize(("settings", "match"), BAD)
def test_what_a_model_cannot_take_is_an_error_with_name_and_value(settings, match):
    with pytest.raises(ValueError, match=match):
        make(**settings)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"a", "b"}, r"negatives\.nouns must be a list .* set"),
        (3, r"negatives\.nouns must be a list .* int 3"),
        ([["a"]], r"negatives\.nouns: word 0 is no string: list"),
        (["a", 3], r"negatives\.nouns: word 1 is no string: int 3"),
        (pd.Series(["a", np.nan]), r"negatives\.nouns: word 1 is no string: float nan"),
        (["a", "b\x00c"], r"negatives\.nouns: word 1 holds '\\x00'"),
        (["a\nb"], r"negatives\.nouns: word 0 holds '\\n'"),
        ("absent.txt", "no such file: 'absent.txt'"),
        ("gear tent " * 500, "nouns .*no such file: 'gear tent "),
    ],
)
def test_words_that_are_none_are_an_error_before_the_run(words, match):
    model = make(**{"class_names": NAMES, "negatives.nouns": words})
    with pytest.raises(ValueError, match=match):
        model.setup("test")


def test_words_that_are_left_out_are_counted_in_the_log(caplog):
    caplog.set_level("INFO", "ants_lightning")
    model = make(**{"class_names": NAMES, "negatives.adjectives": ["red", "", "red\n", " \n", "blue", "red"]})
    model.setup("test")
    assert model.vocabulary.adjectives == ["red", "blue"]
    told = [
        record.getMessage() for record in caplog.records if record.name == "ants_lightning.clip.vocabulary"
    ]
    assert told == [
        f"negatives.adjectives: 2 {what}"
        for what in ("words were given more than once and count once", "blank words are left out")
    ]


def test_a_path_may_be_a_pathlib_path_or_begin_with_a_tilde_and_no_folder_of_that_name_is_made(
    monkeypatch, tmp_path
):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "clip").symlink_to(demo.CLIP.removeprefix("local-dir:"))
    (home / "words.txt").write_text("gear\ntent\n")
    (home / "names.txt").write_text("star\nring\n")
    for way in (str, Path):
        model = make(
            class_names=way("~/names.txt"),
            negatives={"nouns": way("~/words.txt"), "adjectives": [], "keep": 2},
            text_cache=way("~/cache"),
        )
        model.setup("test")
        model.prepare()
        assert (
            model.class_names == NAMES
            and len(model.spaces.neglabel) == 2
            and list((home / "cache").glob("*/*.safetensors"))
        )
        model.spaces.neglabel.save(home / "bank", "labels", model.encoder)
        again = ANTS(
            "local-dir:~/clip", pretrained=None, class_names=NAMES, negatives={"bank": way("~/bank")}
        )
        again.setup("test")
        again.prepare()
        assert (
            again.spaces.neglabel.labels == model.spaces.neglabel.labels
            and again.hparams["negatives"]["bank"] == "~/bank"
        )
    space = TextSpace(128)
    space.load(Path("~/bank"), "labels", model.encoder)
    assert (
        len(space) == 2
        and TextEncoder(model.clip, model.encoder.tokenizer, cache_dir="~/x").cache_dir == home / "x"
    )
    with pytest.raises(ValueError, match=r"no such spaces: .*home/spaces"):
        make(class_names=NAMES, spaces=way("~/spaces")).setup("test")
    assert os.listdir(here) == []


def test_a_decision_takes_scalars_of_other_libraries():
    assert Decision(np.float32(0.5)).value == Decision(torch.tensor(0.5)).value == 0.5
    assert Decision({"id_recall": np.float32(0.5)}).recall == 0.5 and Decision(np.str_("auto")).auto
