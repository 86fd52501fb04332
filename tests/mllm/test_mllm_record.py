"""The record of answers, and runs from it alone."""

import json
import os

import pytest
import torch
from PIL import Image

from ants_lightning import demo
from ants_lightning.common.hashes import pixel_hash
from ants_lightning.mllm import ReplayMLLM, TransformersMLLM
from ants_lightning.mllm.record import Asked, Record, hash_of

ME, OTHER = {"model": "me"}, {"model": "other"}
FOX, CAT = Asked("similar_classes", "fox", 5, None), Asked("describe", "cat", None, "abc")


def test_answers_are_found_again_by_another_process_and_those_of_another_mllm_are_not(tmp_path):
    path = tmp_path / "deep" / "mllm.jsonl"
    Record(path, ME).add([(FOX, ["wolf"]), (CAT, "a “cat”")])
    Record(path, OTHER).add([(FOX, ["dog"])])
    assert Record(path, ME).answers == {FOX: ["wolf"], CAT: "a “cat”"}
    assert Record(path, OTHER).answers == {FOX: ["dog"]}
    Record(path, ME).add([(FOX, ["never"]), (CAT, "mind")])
    assert len(path.read_text().splitlines()) == 5  # two identities, three answers


def test_torn_and_foreign_lines_are_skipped_counted_and_written_past(tmp_path, caplog):
    path = tmp_path / "mllm.jsonl"
    Record(path, ME).add([(FOX, ["wolf"]), (CAT, "a cat")])
    good = path.read_bytes()
    bad = [b"[1]", b"{}", b"\xff\xfe", b'{"identity": 3}', b"null", b"[" * 5000]
    bad.append(good.splitlines()[1].replace(b'["wolf"]', b'"wolf"'))
    path.write_bytes(good[:-9] + b"\n" + b"\n".join(bad) + b"\n" + good.splitlines()[-1][:-4])
    record = Record(path, ME)
    assert record.answers == {FOX: ["wolf"]} and "9 lines" in caplog.text
    record.add([(CAT, "again")])
    assert Record(path, ME).answers == {FOX: ["wolf"], CAT: "again"}


ODD = {
    "identity without mllm": {"identity": ME},
    "identity of another hash": {"mllm": hash_of(ME), "identity": OTHER},
    "identity and answer": {"mllm": hash_of(ME), "identity": ME, "answer": 5},
    "mllm is a list": {"mllm": [1], "identity": ME},
    "answer of a list": {
        "mllm": [hash_of(ME)],
        "ask": "describe",
        "name": "x",
        "count": None,
        "image": "h",
        "answer": "a",
    },
    "no name": {"mllm": hash_of(ME), "ask": "describe", "count": None, "image": "h", "answer": "a"},
    **{
        f"{key} is {value!r}": {
            "mllm": hash_of(ME),
            "ask": "describe",
            "name": "x",
            "count": None,
            "image": "h",
            "answer": "a",
            key: value,
        }
        for key, value in [
            ("name", ["x"]),
            ("name", None),
            ("ask", 3),
            ("ask", []),
            ("ask", "similar_classes"),
            ("image", {}),
            ("image", 1),
            ("count", 1.5),
            ("count", True),
            ("count", [2]),
            ("answer", 5),
            ("answer", ["a"]),
            ("answer", {"a": 1}),
            ("answer", [5]),
        ]
    },
    "a list": ["mllm", "ask", "name", "count", "image", "answer"],
    "a text": "mllm",
    "a number": 5,
}


@pytest.mark.parametrize("kind", ODD)
def test_a_line_of_another_form_is_skipped_and_counted(kind, tmp_path, caplog):
    path = tmp_path / "mllm.jsonl"
    Record(path, ME).add([(FOX, ["wolf"])])
    with path.open("a") as file:
        file.write(json.dumps(ODD[kind]) + "\n\n")
    Record(path, ME).add([(CAT, "a cat")])
    assert (
        Record(path, ME).answers == {FOX: ["wolf"], CAT: "a cat"}
        and "1 lines could not be read" in caplog.text
    )
    replay = ReplayMLLM(str(path))
    replay.setup(torch.device("cpu"))
    assert replay.identity() == ME and replay.similar_classes(["fox"]) == [["wolf"]]


@pytest.mark.parametrize(
    "content", [b"my notes\n", b"\x89PNG\r\n\x1a\n\0\0", b'{"a": 1}\n{"b": 2}\n', b"[]", b"a,b\n1,2\n" * 999]
)
def test_a_file_of_somebody_else_is_named_and_left_alone(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.txt"):
        Record(path, ME)
    assert path.read_bytes() == content


@pytest.mark.parametrize("left", [0, 1, 5, 30, 60])
def test_a_file_whose_only_line_was_torn_by_a_full_disk_is_ours(left, tmp_path):
    path = tmp_path / "mllm.jsonl"
    Record(path, ME).add([(FOX, ["wolf"])])
    path.write_bytes(path.read_bytes()[:left])
    Record(path, ME).add([(CAT, "a cat")])
    assert Record(path, ME).answers == {CAT: "a cat"}
    replay = ReplayMLLM(str(path))
    replay.setup(torch.device("cpu"))  # the identity, torn too, was told again
    assert replay.identity() == ME


def test_a_folder_or_a_pipe_is_no_record(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="no regular file"):
            Record(path, ME)


def test_an_identity_of_other_types_is_told_or_written_as_text(tmp_path):
    Record(tmp_path / "a.jsonl", {"model": tmp_path, "dtype": torch.float32}).add([(FOX, ["wolf"])])
    assert Record(tmp_path / "a.jsonl", {"model": str(tmp_path), "dtype": "torch.float32"}).answers == {
        FOX: ["wolf"]
    }
    for identity in (5, {"a": 1, (1, 2): 3}):
        with pytest.raises(ValueError, match="identity"):
            Record(tmp_path / "b.jsonl", identity)


def test_an_empty_answer_is_asked_again_by_a_later_run_and_repeated_by_a_replay(tmp_path):
    path = tmp_path / "mllm.jsonl"
    first = Record(path, ME)
    first.add([(FOX, []), (CAT, "")])
    assert first.answers == {FOX: [], CAT: ""}  # this run asks once
    later = Record(path, ME)
    assert later.answers == {} and later.said == {FOX: [], CAT: ""}
    later.add([(FOX, ["wolf"]), (CAT, "")])
    assert Record(path, ME).answers == {FOX: ["wolf"]} and Record(path, ME).said == {FOX: ["wolf"], CAT: ""}
    replay = ReplayMLLM(str(path))
    replay.setup(torch.device("cpu"))
    assert replay._look_up("describe", "cat", None, None) is None
    assert replay.similar_classes(["fox"]) == [["wolf"]]
    assert replay._opened().said[CAT] == ""


def test_a_run_that_goes_on_recalls_its_own_empty_answers_but_not_those_of_earlier_runs(tmp_path):
    path = tmp_path / "mllm.jsonl"
    Record(path, ME).add([(FOX, [])])
    run = Record(path, ME)
    began = run.count
    run.add([(CAT, "")])
    resumed = Record(path, ME)
    assert resumed.count == run.count == began + 1 and resumed.since(began) == [CAT]
    resumed.go_on(began)
    assert resumed.answers == {CAT: ""}


def test_what_is_forgotten_is_gone_until_it_is_answered_again(tmp_path):
    path = tmp_path / "mllm.jsonl"
    record = Record(path, ME)
    record.add([(FOX, ["wolf"]), (CAT, "I cannot see it")])
    start = record.count
    record.forget([CAT, Asked("describe", "dog", None, "abc")])
    assert (
        record.answers == record.said == {FOX: ["wolf"]} == Record(path, ME).said
        and record.since(start) == []
    )
    assert Record(path, ME).count == record.count == start + 1  # only what was known is taken back
    Record(path, ME).add([(CAT, "a cat")])
    assert Record(path, ME).answers == {FOX: ["wolf"], CAT: "a cat"}
    assert Record(path, ME).since(start) == [CAT]
    record = Record(path, ME)
    record.forget([FOX], write=False)
    assert record.answers == {CAT: "a cat"} and FOX in Record(path, ME).answers


def test_a_record_is_ascii_whatever_the_texts_hold(tmp_path):
    path, odd = tmp_path / "mllm.jsonl", Asked("describe", "caf\udce9 \n\u2028", None, "abc")
    Record(path, {"model": "\ud800"}).add([(odd, "\ud83d dog")])
    assert path.read_bytes().isascii() and len(path.read_bytes().splitlines()) == 2
    assert Record(path, {"model": "\ud800"}).answers == {odd: "\ud83d dog"}


def test_a_rank_that_does_not_write_still_knows_the_answers(tmp_path):
    record = Record(tmp_path / "mllm.jsonl", ME)
    record.add([(FOX, ["wolf"])], write=False)
    assert record.answers == {FOX: ["wolf"]} and not list(tmp_path.iterdir())


def test_pixel_hash_tells_pixels_and_shapes_apart_but_not_files(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.bmp")
    assert (
        pixel_hash(image)
        == pixel_hash(Image.open(tmp_path / "a.png"))
        == pixel_hash(Image.open(tmp_path / "a.bmp"))
    )
    assert (
        len(
            {
                pixel_hash(i)
                for i in (image, Image.new("RGB", (2, 4), "red"), Image.new("RGB", (4, 2), "blue"))
            }
        )
        == 3
    )


def llava():
    return TransformersMLLM(demo.LLAVA, batch_size=32, max_new_tokens=16)


def scores(results):
    return {name: (stream["lambda"], stream["scores"]) for name, stream in results["streams"].items()}


def test_a_repeated_run_asks_nothing_and_a_replay_needs_no_model_and_both_give_the_same(
    run, tmp_path, monkeypatch
):
    first = run(llava())[2]
    asked = {name: stream["mllm_calls"] for name, stream in first["streams"].items()}
    recalled = {name: stream["mllm_recalled"] for name, stream in first["streams"].items()}
    record = tmp_path / "mllm.jsonl"
    kept = record.read_bytes()
    assert len(kept.splitlines()) == 1 + sum(asked.values()) and str(tmp_path).encode() not in kept
    again = run(llava())[2]
    assert scores(again) == scores(first) and record.read_bytes() == kept
    monkeypatch.setattr(TransformersMLLM, "load", None)  # no model from here on
    record.rename(tmp_path / "moved.jsonl")
    replayed = run(ReplayMLLM(str(tmp_path / "moved.jsonl")))[2]
    assert scores(replayed) == scores(first) and set(record.read_bytes().splitlines()) == set(
        kept.splitlines()
    )
    for name, stream in again["streams"].items():
        assert (
            stream["mllm_calls"] == 0 < asked[name]
            and stream["mllm_recalled"] == asked[name] + recalled[name]
        )
    for name, stream in replayed["streams"].items():
        assert (stream["mllm_calls"], stream["mllm_recalled"], stream["mllm_failures"]) == (
            asked[name],
            recalled[name],
            0,
        )


def test_another_prompt_is_asked_anew(run):
    run(llava())
    other = run(TransformersMLLM(demo.LLAVA, batch_size=32, max_new_tokens=15))[2]
    assert all(stream["mllm_calls"] for stream in other["streams"].values())


def test_record_can_be_left_out(run, tmp_path):
    results = run(llava(), record=None)[2]
    assert not (tmp_path / "mllm.jsonl").exists()
    assert all(stream["mllm_recalled"] == 0 < stream["mllm_calls"] for stream in results["streams"].values())


def test_what_is_not_in_the_record_fails_and_is_counted(run, tmp_path):
    Record(tmp_path / "short.jsonl", ME).add([(Asked("similar_classes", "star", 5, None), ["comb"])])
    results = run(ReplayMLLM(str(tmp_path / "short.jsonl")))[2]
    for stream in results["streams"].values():
        assert 0 < stream["mllm_failures"] <= stream["mllm_calls"] and stream["n_vsnl"] <= 1


@pytest.mark.parametrize("identities", [[], [ME, OTHER]])
def test_a_replay_needs_one_mllm_in_the_record(tmp_path, identities):
    path = tmp_path / "mllm.jsonl"
    path.touch()
    for identity in identities:
        Record(path, identity).add([(FOX, ["wolf"])])
    with pytest.raises(ValueError, match=f"{len(identities)} MLLMs"):
        ReplayMLLM(str(path)).setup(torch.device("cpu"))
    if identities:
        chosen = ReplayMLLM(str(path), "other")
        chosen.setup(torch.device("cpu"))
        assert chosen.identity() == OTHER and chosen.similar_classes(["fox", "cow"]) == [["wolf"], None]


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl"):
        ReplayMLLM(str(tmp_path / "nowhere.jsonl")).setup(torch.device("cpu"))
