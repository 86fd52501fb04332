"""A spaces folder is shared and edited: all of it is checked before a run, and errors name the file."""

import json
import math

import pytest
from small import merged

from ants_lightning import ANTS, demo

NAMES = ["star", "ring"]


@pytest.fixture(scope="module")
def model():
    model = ANTS(demo.CLIP, pretrained=None, class_names=NAMES, **demo.SETTINGS["model"])
    model.setup("test")
    model.prepare()
    for space, texts in (
        (model.spaces.ens, ["a red bird", "a tent", "a gear"]),
        (model.spaces.vsnl, ["The nice comb."]),
    ):
        space.replace(texts, model.encoder(texts))
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save_spaces(tmp_path / "street", {"star": ["comb"]})
    return tmp_path / "street"


def load(folder, **settings):
    model = ANTS(
        demo.CLIP,
        pretrained=None,
        class_names=NAMES,
        spaces=folder,
        **merged(settings, demo.SETTINGS["model"]),
    )
    model.setup("test")
    return model


SETTINGS = {"id_prompt": "The nice {}.", "temperature": 0.04, "num_groups": 5, "vsnl_groups": 1}
BAD = [
    *({"lambda": value} for value in (math.nan, math.inf, -0.1, 7, "0.5", None, True, [0.5])),
    *({"threshold": value} for value in (math.nan, 7, -1, "auto", True, {"id_recall": 0.5})),
    *({"class_names": value} for value in ("star", [], [1, 2], ["star", " "], {"star": 0}, None)),
    *(
        {"settings": value}
        for value in (
            {},
            None,
            [],
            {**SETTINGS, "x": 1},
            {"id_prompt": "The nice {}."},
            {**SETTINGS, "num_groups": None},
            {**SETTINGS, "temperature": [0.04]},
            {**SETTINGS, "vsnl_groups": True},
        )
    ),
    *(
        {"answers": value}
        for value in (None, ["comb"], {"star": "comb"}, {"star": [1]}, {"star": [""]}, {"moose": ["elk"]})
    ),
    *({"ens_ranked": value} for value in (["a"], [-1], [3], [0, 0], [0.5], [True], "012", 1, {}, [])),
    *({name: ...} for name in ("lambda", "threshold", "class_names", "settings", "answers", "ens_ranked")),
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_a_value_that_cannot_be_is_named_with_its_file(folder, change):
    path, (name,) = folder / "spaces.json", change
    content = {
        key: value
        for key, value in {**json.loads(path.read_text("utf-8")), **change}.items()
        if value is not ...
    }
    path.write_text(json.dumps(content), "utf-8")
    inner = "num_groups|temperature|vsnl_groups|" if name == "settings" else ""
    with pytest.raises(ValueError, match=rf"street/spaces\.json: ({inner}{name}|.*{name})"):
        load(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"[]",
        b"3",
        b"\xff\xfe{",
        "é".encode("latin-1"),
        b'{"lambda": 0.5, "\0": 1}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_spaces_json_is_named(folder, content):
    (folder / "spaces.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"street/spaces\.json( is no spaces\.json)?: "):
        load(folder)


@pytest.mark.parametrize(
    "change", [{}, {"lambda": 0}, {"lambda": 1}, {"threshold": math.nextafter(1, 2)}, {"ens_ranked": [2, 0]}]
)
def test_what_can_be_is_taken(folder, change):
    path = folder / "spaces.json"
    then = {**json.loads(path.read_text("utf-8")), **change, "written by": "a later version"}
    path.write_text(json.dumps(then), "utf-16")
    model = load(folder)
    model.prepare()
    assert model.spaces.lambda_ == then["lambda"] and type(model.spaces.lambda_) is float
    assert (
        model.spaces.ens_ranked is None
        if then["ens_ranked"] is None
        else model.spaces.ens_ranked.tolist() == then["ens_ranked"]
    )


@pytest.mark.parametrize("name", ["labels", "ens", "vsnl"])
def test_a_label_file_that_is_no_text_is_named_before_the_run(folder, name):
    for content, match in ((b"caf\xe9\n", "not UTF-8"), (b"a\0b\n", "NUL"), (b" \n", "holds no text")):
        (folder / f"{name}.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"street/{name}\.txt.*{match}"):
            load(folder)
    if name == "labels":
        (folder / "labels.txt").unlink()
        with pytest.raises(ValueError, match=r"no such label bank: .*labels\.txt"):
            load(folder)
    with pytest.raises(ValueError, match=r"no such label bank"):
        ANTS(
            demo.CLIP,
            pretrained=None,
            class_names=NAMES,
            **merged({"negatives.bank": folder / "none"}, demo.SETTINGS["model"]),
        ).setup("test")


def test_control_characters_of_a_label_file_reach_no_terminal_and_no_tokenizer(folder, caplog):
    (folder / "ens.txt").write_bytes(b"a red\x1b[31m bird\x07\na tent\n")
    model = load(folder)
    model.prepare()
    assert model.spaces.ens.labels == ["a red [31m bird", "a tent"]
    assert any(
        "1 lines of" in record.getMessage() and "ens.txt" in record.getMessage() for record in caplog.records
    )


def test_a_place_beyond_an_edited_queue_is_told_before_the_run(folder):
    path = folder / "spaces.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "ens_ranked": [0, 2]}), "utf-8")
    (folder / "ens.txt").write_text("a tent\n\na tent\na gear\n")
    with pytest.raises(
        ValueError,
        match=r"street/spaces\.json: ens_ranked names place 2 of 2 sentences; make it null after edits",
    ):
        load(folder)
