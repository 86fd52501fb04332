"""Folders of spaces: what is replaced, kept and refused."""

import json

import lightning as L
import pytest
import torch
from space_parts import loaded, make_model

from ants_lightning import ANTS, demo
from ants_lightning.common.run_folder import file_name
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.spaces.folder import FILES


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_run_replaces_all_of_a_folder_and_leaves_other_files(run, tmp_path):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "note.md").write_text("mine")
    before = contents(folder)
    _, model, _ = run(ens={"size": 20})
    after = contents(folder)
    assert set(after) == {*FILES, "note.md"} and after["note.md"] == b"mine"
    assert all(after[name] != before[name] for name in ("ens.txt", "ens.safetensors", "spaces.json"))
    assert (
        loaded(folder, model.class_names).spaces.ens.labels == model.spaces.ens.labels
        and len(model.spaces.ens) == 20
    )


def test_spaces_that_were_edited_stay_as_a_whole(run, tmp_path, caplog):
    run()
    folder = tmp_path / "spaces" / "scenes"
    (folder / "ens.txt").write_text("a red car\n", "utf-8")
    before = contents(folder)
    run(ens={"size": 20})
    assert contents(folder) == before
    assert (
        caplog.text.count("the spaces of stream 'scenes' will not be kept: ") == 1
    )  # before the first batch
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
            model.save_spaces(tmp_path / "mine")
        assert contents(path.parent) == {name: b"[]"}
        path.unlink()
    (tmp_path / "mine" / "note").touch()
    for _ in range(2):
        model.save_spaces(tmp_path / "mine")
        assert set(contents(tmp_path / "mine")) == {*FILES, "note"}


ODD = ["a dog\non a lawn", "   ", "\ud83d dog", "esc \x1b[31mred", "", "a\u2028b", "plain ", "plain"]


def test_texts_that_are_no_lines_cost_no_more_than_themselves(run, small_demo, tmp_path, caplog):
    """And what was ranked by place is ranked so again."""
    _, model, _ = run()
    texts = ["first", *ODD, "last"]
    features = torch.nn.functional.normalize(
        torch.rand(len(texts), model.spaces.ens.features.shape[1]), dim=1
    )
    model.spaces.ens.replace(texts, features)
    model.spaces.rank_ens(torch.tensor([9, 2, 4, 8, 0, 1]))
    model.save_spaces(tmp_path / "odd", {small_demo.class_names[0]: ["a\nb", " ", "\ud83d", "good"]})
    found = loaded(tmp_path / "odd", model.class_names)
    lines = {"first": 0, "a dog on a lawn": 1, "dog": 3, "esc [31mred": 4, "a b": 6, "plain": 7, "last": 9}
    assert found.spaces.ens.labels == list(lines) and torch.equal(
        found.spaces.ens.features, features[list(lines.values())]
    )
    assert [list(lines.values())[i] for i in found.spaces.ens_ranked] == [9, 4, 0, 1]
    assert found.spaces.start.answers == {small_demo.class_names[0]: ["a b", "good"]}
    assert "ens: 7 of 10 texts are no lines and saved cleaned, or not" in caplog.text


def test_a_run_whose_mllm_says_what_is_no_line_keeps_its_spaces(run, small_demo, tmp_path):
    class Odd(PerfectCaptions):
        def describe(self, images, avoid):
            answers = super().describe(images, avoid)
            return [ODD[i % len(ODD)] or None if i % 3 == 0 else answer for i, answer in enumerate(answers)]

    _, model, _ = run(Odd(small_demo))
    assert (
        loaded(tmp_path / "spaces" / "scenes", model.class_names).spaces.ens.labels
        == model.spaces.ens.labels
        != []
    )


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "",
        "/etc",
        "a/b",
        "a\nb",
        "n" * 300,
        "😀" * 100,
        "a\0b",
        "CON",
        "\x1b[31mred",
        "a/dataloader_idx_0",
    ],
)
def test_any_name_of_a_stream_has_a_folder_of_its_own(run, small_demo, tmp_path, name):
    loaders = small_demo.test_dataloader()
    first = loaders["scenes"].dataset

    class Named(L.LightningDataModule):
        class_names = small_demo.class_names

        def test_dataloader(self):
            return {name: torch.utils.data.DataLoader([first[i] for i in range(64)], batch_size=16)}

    model = ANTS(demo.CLIP, pretrained=None, **demo.SETTINGS["model"], class_names=small_demo.class_names)
    run(data=Named(), model=model)
    assert [path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("spaces.json")] == [
        f"spaces/{file_name(name)}"
    ]
    assert list(json.loads((tmp_path / "results.json").read_text())["streams"]) == [name]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"class_names": ["star", "moose"]}, "24 other classes than the 2"),
        ({"prompts": {"id": "a {}"}}, "id_prompt .*now 'a {}'"),
        ({"temperature": 0.5}, "temperature was 0.04, now 0.5"),
    ],
)
def test_spaces_of_another_configuration_are_refused_before_the_run(run, small_demo, tmp_path, change, match):
    run()
    model = make_model(
        **{"class_names": small_demo.class_names, "spaces": str(tmp_path / "spaces" / "scenes"), **change}
    )
    with pytest.raises(ValueError, match=match):
        model.setup("test")


def test_no_such_spaces_and_two_label_banks(small_demo, tmp_path):
    model = make_model(class_names=small_demo.class_names, spaces=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"no such spaces: .*nothing"):
        model.setup("test")
    with pytest.raises(ValueError, match=r"'a' and 'b'"):
        make_model(spaces="a", negatives={"bank": "b"})


def test_a_disk_that_is_full_costs_the_spaces_and_not_the_run(run, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ants_lightning.common.run_folder.swap_folder", full)
    results = run()[2]
    assert len(results["streams"]) == 3
    assert sum("No space left" in record.getMessage() for record in caplog.records) == 3
