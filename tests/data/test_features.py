"""The feature cache: encoded once, the same results, and nothing stale is used."""

import json
import shutil

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.cli import Trainer, main
from ants_lightning.data import OODDataModule
from ants_lightning.data.feature_files import FeatureCache, set_identity
from ants_lightning.data.features import FeatureStream, tower_identity
from ants_lightning.data.streams import MixedStream
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES


def make_data(features=None, seed=7, **settings):
    drawn = [
        demo.DrawnImages(names, 48, 70 + i) for i, names in enumerate((ID_CLASSES, list(TEXTURES), SCENES))
    ]
    return OODDataModule(
        drawn[0],
        near={"tex/tures": drawn[1]},
        far={"scenes": drawn[2]},
        batch_size=16,
        num_workers=0,
        seed=seed,
        features=None if features is None else str(features),
        **settings,
    )


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))


QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def adapt(data, root, model=None, mllm=True, **quiet):
    model, report = model or make_model(), Report()
    memory = NegativeMemory(PerfectCaptions(data) if mllm else None, **merged({"record": None}))
    L.Trainer(**{**QUIET, **quiet}, callbacks=[memory, report], default_root_dir=root).test(
        model, data, verbose=False
    )
    return memory, model, report.results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    Trainer(**QUIET).encode(make_model(), make_data(folder))
    return folder


def flat(results):
    return {
        (stream, score, metric): value
        for stream, of in results["streams"].items()
        for score, metrics in of["scores"].items()
        for metric, value in metrics.items()
    }


@pytest.mark.parametrize(
    "settings", [{}, {"mix": {"all": ["tex/tures", "scenes"]}, "order": "blocks", "ood_share": 0.4}]
)
def test_a_run_from_features_equals_the_run_from_images(folder, tmp_path, settings):
    memory, model, results = adapt(make_data(**settings), tmp_path)
    cached_memory, cached_model, cached = adapt(make_data(folder, **settings), tmp_path)
    assert flat(cached) == pytest.approx(flat(results), abs=1e-6)
    assert (
        cached_model.spaces.ens.labels == model.spaces.ens.labels
        and cached_model.spaces.vsnl.labels == model.spaces.vsnl.labels
    )
    assert cached_memory.bank.history == pytest.approx(memory.bank.history, abs=1e-6)
    for stream, of in cached["streams"].items():  # the MLLM was shown the images
        assert of["mllm_calls"] == results["streams"][stream]["mllm_calls"] > 0 == of["mllm_failures"]
        assert of["stream"] == results["streams"][stream]["stream"]


def test_features_are_those_of_the_tower_in_the_order_of_the_set(folder):
    data, model = make_data(), make_model()
    cache = FeatureCache(folder, tower_identity(model.clip, model.preprocess, L.Trainer(**QUIET)))
    cached = cache.read({"id": data.id_set})["id"]
    images = torch.stack([model.preprocess(data.id_set[i][0]) for i in range(len(data.id_set))])
    torch.testing.assert_close(cached["features"], model.encode(images)[0], rtol=1e-5, atol=1e-6)
    assert cached["label"].tolist() == [data.id_set[i][1] for i in range(len(data.id_set))]


def test_batches_of_features_are_worked_out_by_hand():
    sets = [demo.DrawnImages(names, n, 1) for names, n in ((ID_CLASSES, 5), (SCENES, 3), (list(TEXTURES), 4))]
    stream = MixedStream(sets[0], {"a": sets[1], "b": sets[2]}, transform=None, seed=3)
    cached = [
        {"features": 100.0 * k + torch.arange(n)[:, None], "label": 10 + torch.arange(n)}
        for k, n in enumerate((5, 3, 4))
    ]
    batch = FeatureStream(stream, cached).__getitems__(list(range(12)))
    starts, expected = [0, 5, 8], []
    for place in stream.order.tolist():
        k = 2 if place >= 8 else 1 if place >= 5 else 0
        row = place - starts[k]
        expected.append((100.0 * k + row, -k if k else 10 + row))
    assert batch["features"][:, 0].tolist() == [value for value, _ in expected]
    assert batch["label"].tolist() == [label for _, label in expected] and batch["index"].tolist() == list(
        range(12)
    )


def test_encoding_twice_encodes_once(folder, monkeypatch):
    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(ANTS, "encode", fail)
    Trainer(**QUIET).encode(make_model(), make_data(folder))
    index = json.loads((folder / "index.json").read_text())
    assert set(index["sets"]) == {"id", "ood tex/tures", "ood scenes"} and index["sets"]["id"]["n"] == 48


def test_what_was_encoded_otherwise_is_refused_all_at_once(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"id is not in .*; ood tex/tures is not in .*; ood scenes .*ants-lightning encode"
    ):
        adapt(make_data(tmp_path / "none"), tmp_path)
    model = make_model()
    model.clip.visual.attnpool.c_proj.bias.data += 0.1
    with pytest.raises(ValueError, match=r"id: image_tower was .*, now"):
        adapt(make_data(folder), tmp_path, model)
    with pytest.raises(ValueError, match=r"precision was '32-true', now 'bf16-mixed'"):
        adapt(make_data(folder), tmp_path, precision="bf16-mixed")
    data = make_data(folder)
    data.ood_sets["scenes"] = demo.DrawnImages(SCENES, 48, 1)
    with pytest.raises(ValueError, match=r"^ood scenes: content was"):
        adapt(data, tmp_path)
    data.ood_sets["scenes"] = demo.DrawnImages(SCENES, 47, 72)
    with pytest.raises(ValueError, match="ood scenes: n was 48, now 47"):
        adapt(data, tmp_path)


def test_a_set_is_known_by_its_paths_and_images():
    class Listed(demo.DrawnImages):
        paths = tuple(f"a/{i}.png" for i in range(40))

    drawn, listed = demo.DrawnImages(SCENES, 40, 0), Listed(SCENES, 40, 0)
    assert set_identity(drawn) == set_identity(demo.DrawnImages(SCENES, 40, 0)) != set_identity(listed)
    listed.paths = ("b/0.png", *listed.paths[1:])  # only the folder has moved
    assert set_identity(listed) == set_identity(Listed(SCENES, 40, 0))
    listed.paths = listed.paths[:2]  # a column of another length is not one of the images
    assert set_identity(listed) == set_identity(drawn)


def test_the_command_encodes_and_tests(tmp_path, monkeypatch):
    from test_cli import ROOT

    monkeypatch.chdir(ROOT)
    words = [
        "--config",
        "configs/demo.yaml",
        "--data.n_id",
        "40",
        "--data.n_ood",
        "40",
        "--data.batch_size",
        "16",
        "--data.features",
        str(tmp_path / "features"),
        "--trainer.default_root_dir",
        str(tmp_path),
        "--memory.schedule.min_images",
        "64",
        "--trainer.enable_progress_bar",
        "false",
    ]
    main(["encode", *words])
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "id.safetensors",
        "index.json",
        "ood%20lookalikes.safetensors",
        "ood%20scenes.safetensors",
        "ood%20textures.safetensors",
    ]
    main(["test", *words])
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(
        stream["n_id"] == stream["n_ood"] == 40 and stream["mllm_calls"] > 0
        for stream in results["streams"].values()
    )


def test_only_our_data_module_with_a_folder_is_encoded():
    with pytest.raises(ValueError, match=r"--data\.features"):
        Trainer(**QUIET).encode(make_model(), make_data())
    with pytest.raises(ValueError, match="not LightningDataModule"):
        Trainer(**QUIET).encode(make_model(), L.LightningDataModule())


def told(folder, data=None):
    """ID accuracy of a run from features, and the labels that it had."""
    model = make_model()
    L.Trainer(**QUIET, callbacks=[Report()], default_root_dir=folder.parent / "run").test(
        model, data, verbose=False
    )
    return model.results["scenes"]["id_accuracy"]


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "features")
    return tmp_path / "features"


def test_labels_that_were_corrected_after_encoding_count(copy):
    data = make_data(copy)
    right = told(copy, data)
    data.id_set.labels = [(label + 1) % len(ID_CLASSES) for label in data.id_set.labels]
    assert told(copy, data) < 0.2 < right
    data.id_set.labels = ["star"] * 47 + [0]  # told, and some are no numbers: the items say what is wrong
    with pytest.raises(ValueError, match=r"image 0 of the ID set .* has the label 'star'"):
        told(copy, data)
    data.id_set.labels = demo.DrawnImages(ID_CLASSES, 48, 70).labels
    data.id_set.labels[30] = float("nan")  # no image that is looked at
    with pytest.raises(
        ValueError, match=r"id: label of image 30 is no whole number: it must be a number 0…C-1"
    ):
        told(copy, data)
    data.id_set.labels[30] = -1
    with pytest.raises(ValueError, match="id: label of image 30 is -1"):
        told(copy, data)


class Untold(torch.utils.data.Dataset):
    """Tells no labels but with the images."""

    def __init__(self, drawn, change=lambda label: label):
        self.drawn, self.change = drawn, change

    def __len__(self):
        return len(self.drawn)

    def __getitem__(self, i):
        image, label = self.drawn[i]
        return image, self.change(label)


class TargetTransformed(Untold):
    """Tells labels that are not those of its items."""

    @property
    def targets(self):
        return self.drawn.labels


@pytest.mark.parametrize("kind", [Untold, TargetTransformed])
def test_labels_that_are_not_told_are_compared_where_images_are_looked_at(tmp_path, kind):
    data = make_data(tmp_path / "features")
    data.id_set = kind(data.id_set, lambda label: (label + 2) % len(ID_CLASSES))
    data.class_names = ID_CLASSES
    Trainer(**QUIET).encode(make_model(), data)
    told(tmp_path / "features", data)
    first = data.id_set[0][1]
    data.id_set.change = lambda label: (label + 3) % len(ID_CLASSES)
    with pytest.raises(
        ValueError,
        match=rf"id: label of image 0 was {first} when it was encoded, now {data.id_set[0][1]}: run",
    ):
        told(tmp_path / "features", data)
    Trainer(**QUIET).encode(make_model(), data)  # encodes it anew
    told(tmp_path / "features", data)
    if kind is TargetTransformed:
        data.id_set.drawn.labels[30] += 1  # the column is not that of the items, but it has changed
        with pytest.raises(ValueError, match="id: label of image 30 was"):
            told(tmp_path / "features", data)


def test_labels_of_ood_sets_are_not_looked_at(tmp_path):
    data = make_data(tmp_path / "features")
    data.ood_sets["scenes"] = Untold(data.ood_sets["scenes"], lambda label: "a scene")
    data.ood_sets["tex/tures"] = Untold(data.ood_sets["tex/tures"], lambda label: None)
    assert len(Trainer(**QUIET).encode(make_model(), data)) == 3
    assert told(tmp_path / "features", data) > 0.2
    data.id_set = Untold(data.id_set, lambda label: "star")
    with pytest.raises(ValueError, match=r"image \d+ of the ID set \(Untold\) has the label 'star'"):
        Trainer(**QUIET).encode(make_model(), data)


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
