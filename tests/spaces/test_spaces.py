"""Adapted spaces: saved, read, edited, used frozen or as a start."""

import json

import lightning as L
import pytest
import torch
from small import SETTINGS
from space_parts import loaded, make_model

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.demo.controls import PerfectCaptions


def make_trainer(folder, *callbacks):
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Report()],
    )


def batch_of(data, stream="scenes", n=32):
    return torch.stack([data.streams[stream][i]["image"] for i in range(n)])


def test_a_model_with_the_spaces_of_a_run_scores_as_that_run_did_at_its_end(run, small_demo, tmp_path):
    _, model, results = run()
    images = batch_of(small_demo)
    frozen = make_model(spaces=str(tmp_path / "spaces" / "scenes"), class_names=small_demo.class_names)
    frozen.setup("test")
    frozen.prepare()
    for name in ("ens", "vsnl", "neglabel"):
        assert getattr(frozen.spaces, name).labels == getattr(model.spaces, name).labels != []
    assert (
        len(frozen.spaces.ens) == results["streams"]["scenes"]["n_ens"] > 0 < len(frozen.spaces.vsnl)
        and frozen.spaces.lambda_ == model.spaces.lambda_ != 0.5
    )
    for name, scores in model(images)["scores"].items():
        assert torch.equal(frozen(images)["scores"][name], scores), name


@pytest.mark.parametrize("callback", [False, True])
def test_frozen_spaces_stay_in_every_stream_and_need_no_mllm(run, small_demo, tmp_path, callback):
    _, model, _ = run()
    folder = tmp_path / "spaces" / "lookalikes"
    frozen = make_model(spaces=str(folder))

    class NoMLLM(PerfectCaptions):
        def setup(self, device):
            raise AssertionError("the MLLM is loaded")

    callbacks = (
        [NegativeMemory(NoMLLM(small_demo), adapt=False, schedule={"every": 1, "min_images": 1})]
        if callback
        else []
    )
    make_trainer(tmp_path / "frozen", *callbacks).test(frozen, small_demo, verbose=False)
    results = json.loads((tmp_path / "frozen" / "results.json").read_text("utf-8"))
    saved = json.loads((folder / "spaces.json").read_text("utf-8"))
    assert not (tmp_path / "frozen" / "spaces").exists()
    for stream in results["streams"].values():
        assert (stream["n_ens"], stream["n_vsnl"]) == (
            len(frozen.spaces.ens),
            len(frozen.spaces.vsnl),
        ) and len(frozen.spaces.ens) > 0 < len(frozen.spaces.vsnl)
        assert stream["lambda"] == saved["lambda"] and stream["mllm_calls"] == 0
    assert (
        frozen.spaces.ens.labels
        == (folder / "ens.txt").read_text("utf-8").splitlines()
        != model.spaces.ens.labels
    )  # those of scenes


def test_a_run_that_adapts_starts_each_stream_from_the_spaces(run, small_demo, tmp_path):
    memory, _, _ = run()
    answers = json.loads((tmp_path / "spaces" / "scenes" / "spaces.json").read_text("utf-8"))["answers"]
    assert answers == memory.answers != {}
    folder = tmp_path / "spaces" / "lookalikes"
    saved = json.loads((folder / "spaces.json").read_text("utf-8"))
    warm = make_model(spaces=str(folder))
    seen = []

    class Watch(L.Callback):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 0:
                seen.append(
                    (pl_module.spaces.ens.labels, set(pl_module.spaces.vsnl.labels), pl_module.spaces.lambda_)
                )

    mllm = PerfectCaptions(small_demo)
    again = NegativeMemory(mllm, **SETTINGS)
    make_trainer(tmp_path / "warm", again, Watch()).test(warm, small_demo, verbose=False)
    lines = (folder / "ens.txt").read_text("utf-8").splitlines()
    assert [labels for labels, _, _ in seen] == [lines] * 3 and {weight for *_, weight in seen} == {
        saved["lambda"]
    }
    assert all(vsnl >= set((folder / "vsnl.txt").read_text("utf-8").splitlines()) for _, vsnl, _ in seen)
    assert warm.spaces.ens.labels != lines  # and went on from there


def test_edited_texts_are_used(run, small_demo, tmp_path):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "ens.txt").write_text("a red car\n", "utf-8")
    (folder / "vsnl.txt").unlink()
    model = loaded(folder, small_demo.class_names)
    spaces = model.spaces
    assert spaces.ens.labels == ["a red car"] and torch.equal(
        spaces.ens.features, model.encoder(["a red car"])
    )
    assert len(spaces.vsnl) == 0 and len(spaces.neglabel) > 0


def test_a_space_that_is_empty_now_leaves_no_texts_of_an_earlier_run(run, small_demo, tmp_path):
    _, model, _ = run()
    folder = tmp_path / "spaces" / "scenes"
    model.spaces.ens.clear()
    model.save_spaces(folder)
    found = loaded(folder, small_demo.class_names)
    assert len(found.spaces.ens) == 0 < len(found.spaces.vsnl) == len(model.spaces.vsnl)


@pytest.mark.parametrize(("persist", "images"), [(False, 128), (True, 3 * 128)])
def test_the_history_of_the_threshold_persists_as_the_memory_does(run, persist, images):
    model = ANTS(demo.CLIP, pretrained=None, **demo.SETTINGS["model"], threshold="auto")
    run(model=model, persist=persist)
    assert int(model.decision.state()["counts"].sum()) == images


def test_prediction_adapts_as_a_test_does(run, small_demo, tmp_path):
    memory, model, results = run()
    twin = ANTS(demo.CLIP, pretrained=None, **demo.SETTINGS["model"])
    again = NegativeMemory(PerfectCaptions(small_demo), **SETTINGS)
    rows = make_trainer(tmp_path / "predict", again).predict(twin, small_demo)
    assert (
        twin.spaces.ens.labels == model.spaces.ens.labels
        and twin.spaces.vsnl.labels == model.spaces.vsnl.labels
        and twin.spaces.lambda_ == model.spaces.lambda_
    )
    assert torch.equal(again.bank.history, memory.bank.history)
    saved = [
        (folder / "spaces" / "scenes" / "ens.txt").read_text("utf-8")
        for folder in (tmp_path, tmp_path / "predict")
    ]
    assert saved[0] == saved[1] != ""
    for stream, batches in zip(results["streams"], rows, strict=True):
        score = torch.cat([batch["scores"]["ants"] for batch in batches])
        label = torch.cat([batch["label"] for batch in batches])
        pairs = score[label < 0][:, None] - score[label >= 0]
        auroc = ((pairs > 0).double() + (pairs == 0).double() / 2).mean().item()
        assert results["streams"][stream]["scores"]["ants"]["auroc"] == pytest.approx(auroc, abs=1e-9)
        assert [i for batch in batches for i in batch["index"].tolist()] == list(range(128))
    assert {batch["lambda"] for batch in rows[0]} > {0.5}


def test_a_run_with_no_mllm_leaves_no_spaces(small_demo, tmp_path):
    model = ANTS(demo.CLIP, pretrained=None, **demo.SETTINGS["model"])
    make_trainer(tmp_path, NegativeMemory(None)).test(model, small_demo, verbose=False)
    assert (tmp_path / "results.json").is_file() and not (tmp_path / "spaces").exists()
