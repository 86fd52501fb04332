"""The record of answers, and runs from it alone."""

import pytest
import torch
from PIL import Image

from ants_lightning import demo
from ants_lightning.mllm import ReplayMLLM, TransformersMLLM
from ants_lightning.mllm.record import Asked, Record, pixel_hash

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


def test_a_rank_that_does_not_write_still_knows_the_answers(tmp_path):
    record = Record(tmp_path / "mllm.jsonl", ME)
    record.add([(FOX, ["wolf"])], write=False)
    assert record.answers == {FOX: ["wolf"]} and not list(tmp_path.iterdir())


def test_pixel_hash_tells_pixels_and_shapes_apart_but_not_files(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.bmp")
    assert pixel_hash(image) == pixel_hash(Image.open(tmp_path / "a.png")) == pixel_hash(Image.open(tmp_path / "a.bmp"))
    assert len({pixel_hash(i) for i in (image, Image.new("RGB", (2, 4), "red"), Image.new("RGB", (4, 2), "blue"))}) == 3


def llava():
    return TransformersMLLM(demo.LLAVA, batch_size=32, max_new_tokens=16)


def scores(results):
    return {name: (stream["lambda"], stream["scores"]) for name, stream in results["streams"].items()}


def test_a_repeated_run_asks_nothing_and_a_replay_needs_no_model_and_both_give_the_same(run, tmp_path, monkeypatch):
    first = run(llava())[2]
    asked = {name: stream["mllm_calls"] for name, stream in first["streams"].items()}
    recalled = {name: stream["mllm_recalled"] for name, stream in first["streams"].items()}
    monkeypatch.setattr(TransformersMLLM, "load", None)  # no model from here on
    record = tmp_path / "mllm.jsonl"
    kept = record.read_bytes()
    assert len(kept.splitlines()) == 1 + sum(asked.values()) and str(tmp_path).encode() not in kept
    again = run(llava())[2]
    assert scores(again) == scores(first) and record.read_bytes() == kept
    record.rename(tmp_path / "moved.jsonl")
    replayed = run(ReplayMLLM(str(tmp_path / "moved.jsonl")))[2]
    assert scores(replayed) == scores(first) and set(record.read_bytes().splitlines()) == set(kept.splitlines())
    for name, stream in again["streams"].items():
        assert stream["mllm_calls"] == 0 < asked[name] and stream["mllm_recalled"] == asked[name] + recalled[name]
    for name, stream in replayed["streams"].items():
        assert (stream["mllm_calls"], stream["mllm_recalled"], stream["mllm_failures"]) == (asked[name], recalled[name], 0)


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
