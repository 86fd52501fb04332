"""Damaged files of the feature cache, and files of others."""

import pytest
import torch
from feature_parts import QUIET, make_data, make_model, told
from safetensors.torch import load_file, save_file

from ants_lightning import ANTS, demo
from ants_lightning.cli import Trainer
from ants_lightning.demo.scenery import SCENES


def swap(folder):
    a, b = folder / "ood%20scenes.safetensors", folder / "ood%20tex%2Ftures.safetensors"
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def rewrite(name, change):
    def do(folder):
        columns = load_file(folder / f"{name}.safetensors")
        save_file(
            {key: column.contiguous() for key, column in change(columns).items()},
            folder / f"{name}.safetensors",
        )

    return do


def tear(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


DAMAGE = {
    "swapped": (swap, "ood%20scenes.safetensors does not hold what was encoded"),
    "shifted": (
        rewrite("id", lambda c: {**c, "features": c["features"].roll(1, 0)}),
        "id.safetensors does not hold",
    ),
    "scaled": (rewrite("id", lambda c: {**c, "features": c["features"] * 3}), "id.safetensors does not hold"),
    "one bit": (
        rewrite("id", lambda c: {**c, "features": c["features"].nextafter(torch.tensor(1.0))}),
        "id.safetensors does not hold",
    ),
    "labels": (rewrite("id", lambda c: {**c, "label": c["label"].flip(0)}), "id.safetensors does not hold"),
    "half": (
        rewrite("ood%20scenes", lambda c: {k: v[:24] for k, v in c.items()}),
        "ood%20scenes.safetensors does not hold",
    ),
    "no column": (
        rewrite("ood%20scenes", lambda c: {"label": c["label"]}),
        "ood%20scenes.safetensors does not hold",
    ),
    "torn": (tear("ood%20scenes.safetensors", 3000), "ood%20scenes.safetensors cannot be read"),
    "empty": (tear("id.safetensors", 0), "id.safetensors cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_what_was_written_is_named_and_encoded_anew(copy, damage):
    before = told(copy, make_data(copy))
    do, match = DAMAGE[damage]
    do(copy)
    with pytest.raises(ValueError, match=f"features: .*{match}.*ants-lightning encode"):
        told(copy, make_data(copy))
    again = Trainer(**QUIET).encode(make_model(), make_data(copy))
    assert again == (
        ["ood tex/tures", "ood scenes"]
        if damage == "swapped"
        else ["id" if "id.safe" in match else "ood scenes"]
    )
    assert told(copy, make_data(copy)) == before


@pytest.mark.parametrize(
    "content", ['{"made_by": "ants_lightning", "ki', "[1, 2]", '{"weight_map": {}}', "\xff", "[" * 100_000]
)
def test_an_index_that_is_torn_or_of_others_is_named_and_stays(copy, content):
    (copy / "index.json").write_text(content, "latin-1")
    for run in (
        lambda: told(copy, make_data(copy)),
        lambda: Trainer(**QUIET).encode(make_model(), make_data(copy)),
    ):
        with pytest.raises(
            ValueError, match=r"index\.json is no index of a feature cache, or damaged .* take it away"
        ):
            run()
    assert (copy / "index.json").read_text("latin-1") == content


@pytest.mark.parametrize("kind", ["safetensors", "text", "link"])
def test_files_of_others_in_the_folder_are_never_written_over(tmp_path, monkeypatch, kind):
    folder = tmp_path / "weights"
    folder.mkdir()
    theirs = folder / "ood%20scenes.safetensors"
    if kind == "link":
        theirs.symlink_to(tmp_path / "another disk")
    elif kind == "text":
        theirs.write_text("mine")
    else:
        save_file({"weight": torch.zeros(3)}, theirs)
    before = None if kind == "link" else theirs.read_bytes()
    monkeypatch.setattr(ANTS, "encode", lambda *_: pytest.fail("work was done first"))
    with pytest.raises(
        ValueError, match=r"ood%20scenes\.safetensors is not of `ants-lightning encode`, and is left as it is"
    ):
        Trainer(**QUIET).encode(make_model(), make_data(folder))
    assert theirs.is_symlink() if kind == "link" else theirs.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [theirs.name]


def test_any_name_of_a_set_and_other_files_beside_it(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    names = ["n" * 300, "..", "", "\U0001f600" * 100, "a\0b", "a/b", "id", "id.rank0"]
    data = make_data(folder)
    data.ood_sets = {name: demo.DrawnImages(SCENES, 6, i) for i, name in enumerate(names)}
    assert Trainer(**QUIET).encode(make_model(), data) == ["id", *(f"ood {name}" for name in names)]
    assert Trainer(**QUIET).encode(make_model(), data) == []
    files = sorted(path.name for path in folder.iterdir())
    assert (
        len(files) == len(names) + 3
        and (folder / "notes.txt").read_text() == "mine"
        and max(map(len, files)) < 200
    )


def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(ANTS, "encode", lambda *_: pytest.fail("work was done first"))
    with pytest.raises(OSError, match="file"):
        Trainer(**QUIET).encode(make_model(), make_data(tmp_path / "file"))
