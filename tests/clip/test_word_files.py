"""Files of names and words: encodings, JSON, what is no list; and class names that cannot work."""

import json
import os
import re

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import merged
from torch.utils.data import DataLoader, TensorDataset

from ants_lightning import ANTS, demo
from ants_lightning.clip.vocabulary import checked_class_names, warn_of_codes
from ants_lightning.clip.word_files import bad_character, read_lines, read_list, read_text
from ants_lightning.data import read_class_names

WORDS = ["crème brûlée", "赤 狐", "cat"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_read_in_every_encoding_that_tells_itself(tmp_path, encoding, end):
    path = tmp_path / "words.txt"
    path.write_bytes((end.join(WORDS) + end).encode(encoding))
    assert read_lines(path, "words") == read_list(path, "words") == read_class_names(path) == WORDS


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("crème".encode("latin-1"), "is not UTF-8 text: 'utf-8' codec"),
        ("cat".encode("utf-16-le"), "is not UTF-8 text: it holds NUL"),
        ("cat".encode("utf-16")[:-1], "is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "is not UTF-8 text"),
        (b"a\x00b", "it holds NUL"),
        (b"a\nred\x1b[31m\n", r"line 2 of '.*' holds '\\x1b'"),
        (b"tench\tTinca tinca\n", r"line 1 .* holds '\\t'"),
    ],
)
def test_what_is_no_text_is_an_error_with_the_file(tmp_path, content, match):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    for read in (
        read_class_names,
        lambda path: read_lines(path, "nouns"),
        lambda path: read_list(path, "nouns"),
    ):
        with pytest.raises(ValueError, match=match) as error:
            read(path)
        assert str(path) in str(error.value)
    model = ANTS(
        demo.CLIP,
        pretrained=None,
        class_names=["star"],
        **merged({"negatives.nouns": str(path)}, demo.SETTINGS["model"]),
    )
    with pytest.raises(ValueError, match=match) as error:
        model.setup("test")
    assert str(path) in str(error.value) and "nouns" in str(error.value)


def test_what_is_no_regular_file_is_an_error_and_waits_for_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("pipe", "gone", "absent", "", "a" * 5000, "a\0b"):
        with pytest.raises(ValueError, match=r"class_names: no such file"):
            read_text(tmp_path / name if name != "a" * 5000 else name, "class_names")


def test_control_characters_are_cleaned_where_told_and_counted(tmp_path, caplog):
    path = tmp_path / "ens\x1b.txt"
    path.write_bytes("a \x1b[31mred\x07 bird\nplain\nzero\u200cwidth\n".encode())
    assert read_lines(path, "label bank", clean=True) == ["a [31mred bird", "plain", "zero\u200cwidth"]
    (record,) = caplog.records
    assert record.getMessage().startswith("label bank: 1 lines of ") and "\x1b" not in record.getMessage()


FORMS = {
    "a list": ["tench", "goldfish"],
    "names by label": {"0": "tench", "1": "goldfish"},
    "ImageNet's class index": {"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]},
    "labels by name": {"goldfish": 1, "tench": 0},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "indent"), [("names.json", None), ("names.JSON", 2), ("names.txt", None), ("names.txt", 1)]
)
def test_json_is_read_as_what_it_is(tmp_path, form, name, indent):
    (tmp_path / name).write_text(json.dumps(FORMS[form], indent=indent))
    assert read_class_names(tmp_path / name) == ["tench", "goldfish"]


@pytest.mark.parametrize(
    "content",
    [
        {"a": "b"},
        {"0": "a", "2": "b"},
        {"a": 0, "b": 0},
        {"a": 1, "b": 2},
        {"a": True},
        {"0": ["x", "a"], "1": "b"},
        {},
        [1, 2],
        [["a"]],
        "a",
        3,
        None,
        {"names": ["a"]},
        {"0": {"name": "a"}},
        ["a", None],
    ],
)
def test_json_of_another_form_is_refused_with_the_forms(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"names\.json' is none of: a list of names"):
        read_class_names(path)


def test_torn_json_and_tables_are_refused(tmp_path):
    for name in ("names.json", "names.txt"):
        (tmp_path / name).write_text('["tench", "gold')
        with pytest.raises(ValueError, match=rf"{re.escape(name)}' is not JSON"):
            read_class_names(tmp_path / name)
    for name in ("names.csv", "data.YAML", "names.tsv"):
        (tmp_path / name).write_text("label,name\n0,tench\n")
        with pytest.raises(ValueError, match=rf"{re.escape(name)}' is no list: give a text file"):
            read_class_names(tmp_path / name)
    (tmp_path / "names.json").write_text('["a\\u001b[31m"]')
    with pytest.raises(ValueError, match=r"name 0 of .*names\.json' holds '\\x1b'"):
        read_class_names(tmp_path / "names.json")
    (tmp_path / "names.txt").write_text("[CLS]\n{x}\n")
    assert read_class_names(tmp_path / "names.txt") == ["[CLS]", "{x}"]


@given(
    st.lists(
        st.text(min_size=1).map(str.strip).filter(lambda text: text and not bad_character(text)),
        min_size=1,
        unique=True,
    )
)
def test_lists_of_any_names_survive_json(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(names))
    assert read_list(path, "names") == names


# ---- class names that cannot work


@pytest.mark.parametrize(
    "names", [["n01440764", "n01443537"], ["n01440764 tench, Tinca tinca", "n01443537 goldfish"]]
)
def test_wordnet_ids_are_refused(names):
    with pytest.raises(
        ValueError, match=r"class_names are WordNet ids \('n01440764.*class_names_of\('imagenet1k'\)"
    ):
        checked_class_names(names)


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        (list("0123456789"), "10 of 10"),
        (["class_0", "class_1", "other"], "2 of 3"),
        (["c001", "c002"], "2 of 2"),
        (["id-7"], "1 of 1"),
        (["3fa85f64", "a1b2c3d4"], "2 of 2"),
        (["n01440764", "n01443537", "dog"], "2 of 3"),
        (["n01440764", "dog"], ""),
        (["dog", "A320", "747"], ""),
        (["decade", "facade", "beef"], ""),
        (["star", "ring"], ""),
        (["1", "dog", "cat"], ""),
    ],
)
def test_other_codes_are_a_warning_where_they_are_most(names, codes, caplog):
    warn_of_codes(checked_class_names(names))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(codes) and all(
        line.startswith(f"{codes} class names look like codes") for line in told
    )
    assert all("class_names in words" in line for line in told)


def run(tmp_path, **settings):
    model = ANTS(demo.CLIP, pretrained=None, **demo.SETTINGS["model"], **settings)
    data = DataLoader(TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, -1, -1])), 2)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.test(model, data, verbose=False)
    return model


LONG = "star " * 30


@pytest.mark.parametrize(
    "pair", [("star", "Star"), ("red  star", "red star"), ("star", "STAR"), (f"{LONG}a", f"{LONG}ring")]
)
def test_class_names_that_are_one_to_the_tokenizer_are_refused_before_the_run(tmp_path, pair):
    with pytest.raises(
        ValueError, match=rf"class_names '{pair[0].strip()}' and '{pair[1].strip()}' are one to this model"
    ):
        run(tmp_path, class_names=["ring", *pair])


def test_texts_with_features_of_their_own_are_not_compared_by_tokens():
    model = ANTS(demo.CLIP, pretrained=None, class_names=["star", "Star"], **demo.SETTINGS["model"])
    texts = [model.prompts.id.format(name) for name in model.hparams["class_names"]]
    assert model.encoder.first_same(texts) == (0, 1) and model.encoder.first_same(["a", "star", *texts]) == (
        2,
        3,
    )
    model.encoder.remember(texts[1:], torch.eye(128)[:1])
    model.setup("test")
    model.encoder.remember(texts, torch.eye(128)[:2])
    assert model.encoder.first_same(texts) is None and model.encoder.first_same([]) is None
