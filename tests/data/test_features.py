"""The feature cache: encoded once, the same results."""

import json

import lightning as L
import pytest
import torch
from feature_parts import QUIET, make_data, make_model
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.cli import Trainer, main
from ants_lightning.data.feature_files import FeatureCache, set_identity
from ants_lightning.data.features import FeatureStream, tower_identity
from ants_lightning.data.streams import MixedStream
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES


def adapt(data, root, model=None, mllm=True, **quiet):
    model, report = model or make_model(), Report()
    memory = NegativeMemory(PerfectCaptions(data) if mllm else None, **merged({"record": None}))
    L.Trainer(**{**QUIET, **quiet}, callbacks=[memory, report], default_root_dir=root).test(
        model, data, verbose=False
    )
    return memory, model, report.results


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
    from cli_parts import ROOT

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
