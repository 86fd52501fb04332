"""Adapted spaces: saved, read, edited, used frozen with no MLLM, and started from."""

import json

import lightning as L
import pytest
import torch

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.common.run_folder import file_name
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.spaces.folder import FILES, load_spaces, save_spaces


def make_model(**changes):
    return ANTS(demo.CLIP, pretrained=None, **{**demo.SETTINGS["model"], **changes})


def make_trainer(folder, *callbacks):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[*callbacks, Report()],
    )  # fmt: skip


def batch_of(data, stream="scenes", n=32):
    return torch.stack([data.streams[stream][i]["image"] for i in range(n)])


def test_a_model_with_the_spaces_of_a_run_scores_as_that_run_did_at_its_end(run, small_demo, tmp_path):
    _, model, results = run()
    images = batch_of(small_demo)
    frozen = make_model(spaces=str(tmp_path / "spaces" / "scenes"), class_names=small_demo.class_names)
    frozen.setup("test")
    frozen.prepare()
    for name in ("ens", "vsnl", "neglabel"):
        assert getattr(frozen, name).labels == getattr(model, name).labels != []
    assert len(frozen.ens) == results["streams"]["scenes"]["n_ens"] > 0 < len(frozen.vsnl) and frozen.weight == model.weight != 0.5
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

    callbacks = [NegativeMemory(NoMLLM(small_demo), adapt=False, refresh_every=1, min_images=1)] if callback else []
    make_trainer(tmp_path / "frozen", *callbacks).test(frozen, small_demo, verbose=False)
    results = json.loads((tmp_path / "frozen" / "results.json").read_text("utf-8"))
    saved = json.loads((folder / "spaces.json").read_text("utf-8"))
    assert not (tmp_path / "frozen" / "spaces").exists()
    for stream in results["streams"].values():
        assert (stream["n_ens"], stream["n_vsnl"]) == (len(frozen.ens), len(frozen.vsnl)) and len(frozen.ens) > 0 < len(frozen.vsnl)
        assert stream["lambda"] == saved["lambda"] and stream["mllm_calls"] == 0
    assert frozen.ens.labels == (folder / "ens.txt").read_text("utf-8").splitlines() != model.ens.labels  # those of scenes


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
                seen.append((pl_module.ens.labels, set(pl_module.vsnl.labels), pl_module.weight))

    mllm = PerfectCaptions(small_demo)
    again = NegativeMemory(mllm, refresh_every=2, min_images=16, delta=0.5, ens_size=50)
    make_trainer(tmp_path / "warm", again, Watch()).test(warm, small_demo, verbose=False)
    lines = (folder / "ens.txt").read_text("utf-8").splitlines()
    assert [labels for labels, _, _ in seen] == [lines] * 3 and {weight for *_, weight in seen} == {saved["lambda"]}
    assert all(vsnl >= set((folder / "vsnl.txt").read_text("utf-8").splitlines()) for _, vsnl, _ in seen)
    assert warm.ens.labels != lines  # and went on from there


def test_edited_texts_are_used(run, small_demo, tmp_path):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "ens.txt").write_text("a red car\n", "utf-8")
    (folder / "vsnl.txt").unlink()
    model = make_model(class_names=small_demo.class_names)
    model.setup("test")
    spaces = load_spaces(model, folder)
    assert spaces.ens.labels == ["a red car"] and torch.equal(spaces.ens.features, model.encoder(["a red car"]))
    assert len(spaces.vsnl) == 0 and len(model.neglabel) > 0


def test_a_space_that_is_empty_now_leaves_no_texts_of_an_earlier_run(run, small_demo, tmp_path):
    _, model, _ = run()
    folder = tmp_path / "spaces" / "scenes"
    model.ens.clear()
    save_spaces(model, folder)
    found = load_spaces(model, folder)
    assert len(found.ens) == 0 < len(found.vsnl) == len(model.vsnl)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_run_replaces_all_of_a_folder_and_leaves_other_files(run, tmp_path):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "note.md").write_text("mine")
    before = contents(folder)
    _, model, _ = run(ens_size=20)
    after = contents(folder)
    assert set(after) == {*FILES, "note.md"} and after["note.md"] == b"mine"
    assert all(after[name] != before[name] for name in ("ens.txt", "ens.safetensors", "spaces.json"))
    assert load_spaces(model, folder).ens.labels == model.ens.labels and len(model.ens) == 20


def test_spaces_that_were_edited_stay_as_a_whole(run, tmp_path, caplog):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "ens.txt").write_text("a red car\n", "utf-8")
    before = contents(folder)
    run(ens_size=20)
    assert contents(folder) == before
    assert caplog.text.count("the spaces of stream 'scenes' will not be kept: ") == 1  # before the first batch
    assert "could not be kept" not in caplog.text
    assert "scenes/ens.txt: no run wrote it, or it was edited since" in caplog.text
    assert len((tmp_path / "spaces" / "textures" / "ens.txt").read_text("utf-8").splitlines()) == 20


def test_spaces_are_saved_over_saved_spaces_only(run, tmp_path):
    _, model, _ = run()
    (tmp_path / "mine").mkdir()
    for name in ("labels.txt", "spaces.json"):
        path = tmp_path / "mine" / name
        path.write_text("[]")
        with pytest.raises(FileExistsError, match=f"mine/{name} is not of saved spaces and is left alone"):
            save_spaces(model, tmp_path / "mine")
        assert contents(path.parent) == {name: b"[]"}
        path.unlink()
    (tmp_path / "mine" / "note").touch()
    for _ in range(2):
        save_spaces(model, tmp_path / "mine")
        assert set(contents(tmp_path / "mine")) == {*FILES, "note"}


ODD = ["a dog\non a lawn", "   ", "\ud83d dog", "esc \x1b[31mred", "", "a\u2028b", "plain ", "plain"]


def test_texts_that_are_no_lines_cost_no_more_than_themselves(run, small_demo, tmp_path, caplog):
    """And what was ranked by place is ranked so again."""
    _, model, _ = run()
    texts = ["first", *ODD, "last"]
    features = torch.nn.functional.normalize(torch.rand(len(texts), model.ens.features.shape[1]), dim=1)
    model.ens.replace(texts, features)
    model.ens_ranked = torch.tensor([9, 2, 4, 8, 0, 1])
    save_spaces(model, tmp_path / "odd", {small_demo.class_names[0]: ["a\nb", " ", "\ud83d", "good"]})
    found = load_spaces(model, tmp_path / "odd")
    lines = {"first": 0, "a dog on a lawn": 1, "dog": 3, "esc [31mred": 4, "a b": 6, "plain": 7, "last": 9}
    assert found.ens.labels == list(lines) and torch.equal(found.ens.features, features[list(lines.values())])
    assert [list(lines.values())[i] for i in found.ens_ranked] == [9, 4, 0, 1]
    assert found.answers == {small_demo.class_names[0]: ["a b", "good"]}
    assert "ens: 7 of 10 texts are no lines and saved cleaned, or not" in caplog.text


def test_a_run_whose_mllm_says_what_is_no_line_keeps_its_spaces(run, small_demo, tmp_path):
    class Odd(PerfectCaptions):
        def describe(self, images, avoid):
            answers = super().describe(images, avoid)
            return [ODD[i % len(ODD)] or None if i % 3 == 0 else answer for i, answer in enumerate(answers)]

    _, model, _ = run(Odd(small_demo))
    assert load_spaces(model, tmp_path / "spaces" / "scenes").ens.labels == model.ens.labels != []


@pytest.mark.parametrize(
    "name", ["..", "", "/etc", "a/b", "a\nb", "n" * 300, "😀" * 100, "a\0b", "CON", "\x1b[31mred", "a/dataloader_idx_0"]
)
def test_any_name_of_a_stream_has_a_folder_of_its_own(run, small_demo, tmp_path, name):
    loaders = small_demo.test_dataloader()
    first = loaders["scenes"].dataset

    class Named(L.LightningDataModule):
        class_names = small_demo.class_names

        def test_dataloader(self):
            return {name: torch.utils.data.DataLoader([first[i] for i in range(64)], batch_size=16)}

    model = ANTS(demo.CLIP, pretrained=None, **demo.WORDS, **demo.SETTINGS["model"], class_names=small_demo.class_names)
    run(data=Named(), model=model)
    assert [path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("spaces.json")] == [f"spaces/{file_name(name)}"]
    assert list(json.loads((tmp_path / "results.json").read_text())["streams"]) == [name]


@pytest.mark.parametrize(("persist", "images"), [(False, 128), (True, 3 * 128)])
def test_the_history_of_the_threshold_persists_as_the_memory_does(run, persist, images):
    model = ANTS(demo.CLIP, pretrained=None, **demo.WORDS, **demo.SETTINGS["model"], threshold="auto")
    run(model=model, persist=persist)
    assert int(model.decision.state()["counts"].sum()) == images


@pytest.mark.parametrize(
    ("change", "match"),
    [({"class_names": ["star", "moose"]}, "24 other classes than the 2"), ({"id_prompt": "a {}"}, "id_prompt .*now 'a {}'"),
     ({"temperature": 0.5}, "temperature was 0.04, now 0.5")],
)  # fmt: skip
def test_spaces_of_another_configuration_are_refused_before_the_run(run, small_demo, tmp_path, change, match):
    run()
    model = make_model(**{"class_names": small_demo.class_names, "spaces": str(tmp_path / "spaces" / "scenes"), **change})
    with pytest.raises(ValueError, match=match):
        model.setup("test")


def test_no_such_spaces_and_two_label_banks(small_demo, tmp_path):
    model = make_model(class_names=small_demo.class_names, spaces=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"no such spaces: .*nothing"):
        model.setup("test")
    with pytest.raises(ValueError, match=r"'a' and 'b'"):
        make_model(spaces="a", label_bank="b")


def test_a_disk_that_is_full_costs_the_spaces_and_not_the_run(run, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ants_lightning.common.run_folder.swap_folder", full)
    results = run()[2]
    assert len(results["streams"]) == 3
    assert sum("No space left" in record.getMessage() for record in caplog.records) == 3


def test_prediction_adapts_as_a_test_does(run, small_demo, tmp_path):
    memory, model, results = run()
    twin = ANTS(demo.CLIP, pretrained=None, **demo.WORDS, **demo.SETTINGS["model"])
    again = NegativeMemory(PerfectCaptions(small_demo), refresh_every=2, min_images=16, delta=0.5, ens_size=50)
    rows = make_trainer(tmp_path / "predict", again).predict(twin, small_demo)
    assert twin.ens.labels == model.ens.labels and twin.vsnl.labels == model.vsnl.labels and twin.weight == model.weight
    assert torch.equal(again.evidence.history, memory.evidence.history)
    saved = [(folder / "spaces" / "scenes" / "ens.txt").read_text("utf-8") for folder in (tmp_path, tmp_path / "predict")]
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
    model = ANTS(demo.CLIP, pretrained=None, **demo.WORDS, **demo.SETTINGS["model"])
    make_trainer(tmp_path, NegativeMemory(None)).test(model, small_demo, verbose=False)
    assert (tmp_path / "results.json").is_file() and not (tmp_path / "spaces").exists()
