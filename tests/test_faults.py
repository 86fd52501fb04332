"""Faulty images, end to end: what is lost is the faulty item, and nothing else changes."""

import logging

import lightning as L
import pytest
import torch
from fault_parts import QUIET, GoodOnly, make_model, measured, run

from ants_lightning.baselines import CSP, GLMCM, AdaNeg
from ants_lightning.data import ImageList, OODDataModule
from ants_lightning.data.feature_files import set_identity
from ants_lightning.demo.shapes import ID_CLASSES


def test_a_run_over_faulty_images_equals_the_run_without_them(faults, uncached, tmp_path):
    model, mllm, result = uncached
    assert (result["n_unreadable"], result["n_not_finite"], result["n_id"], result["n_ood"]) == (9, 0, 56, 30)
    assert result["mllm_calls"] > 0 == result["mllm_failures"]
    data = faults.data(transform=model.preprocess)
    data.setup("test")
    alone = run(GoodOnly(faults, data.streams["scenes"], model.preprocess, 8), tmp_path)
    assert measured(result) == measured(alone[2], n_unreadable=9)
    assert mllm.images == alone[1].images and model.spaces.ens.labels == alone[0].spaces.ens.labels
    assert (
        model.spaces.vsnl.labels == alone[0].spaces.vsnl.labels
        and model.spaces.lambda_ == alone[0].spaces.lambda_
    )


def test_workers_and_the_feature_cache_change_nothing(faults, uncached, tmp_path, caplog):
    model, mllm, result = uncached
    workers = run(faults.data(num_workers=2), tmp_path)
    assert measured(workers[2]) == measured(result) and workers[1].images == mllm.images
    encoder, data = make_model(), faults.data(features=str(tmp_path / "cache"), num_workers=2)
    with caplog.at_level(logging.WARNING):
        assert data.encode(L.Trainer(**QUIET), encoder) == ["id", "ood scenes"]
    told = [r.getMessage() for r in caplog.records if "cannot be read" in r.getMessage()]
    assert [text.split(":")[0] for text in told] == [
        "id",
        "ood scenes",
    ] and "8 of 64 images cannot be read" in told[0]
    assert faults.data(features=str(tmp_path / "cache")).encode(L.Trainer(**QUIET), encoder) == []
    cached = run(faults.data(features=str(tmp_path / "cache")), tmp_path)
    assert cached[0].spaces.ens.labels == model.spaces.ens.labels and cached[1].images == mllm.images
    assert {k: v for k, v in cached[2].items() if k[:2] == "n_"} == {
        k: v for k, v in result.items() if k[:2] == "n_"
    }
    for score, found in result["scores"].items():
        assert cached[2]["scores"][score] == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_batches_that_are_lost_altogether_do_not_end_a_run(faults, tmp_path, cached):
    # In float32 batches of 1 and of 8 round differently, and like images may change places
    exact = {"precision": "64-true"}
    features = str(tmp_path) if cached else None
    model = make_model(baselines=[AdaNeg(), CSP()] if cached else [AdaNeg(), GLMCM()])
    if cached:
        faults.data(features=features).encode(L.Trainer(**QUIET, **exact), make_model())
    data = faults.data(features=features, batch_size=1)  # each lost image is a batch
    result = run(data, tmp_path, model, schedule={"every": 1}, **exact)[2]
    assert (result["n_unreadable"], result["n_id"], result["n_ood"]) == (9, 56, 30)
    expected = run(faults.data(), tmp_path / "eights", **exact)[2]
    for score in ("mcm", "neglabel"):
        assert result["scores"][score] == pytest.approx(expected["scores"][score], abs=1e-5)


def test_lost_images_of_the_cache_are_told_as_by_the_stream(faults, tmp_path):
    model = make_model()
    faults.data(features=str(tmp_path)).encode(L.Trainer(**QUIET), model)
    loaders = []
    for features in (None, str(tmp_path)):
        data = faults.data(features=features)
        data.trainer = L.Trainer(**QUIET)
        data.trainer.strategy.connect(model)
        data.setup("test")
        loaders.append(data.test_dataloader()["scenes"])
    for a, b in zip(*loaders, strict=True):
        assert (
            torch.equal(a["index"], b["index"])
            and torch.equal(a["label"], b["label"])
            and a["path"] == b["path"]
        )
        torch.testing.assert_close(model.encode(a["image"])[0], b["features"], rtol=1e-5, atol=1e-6)
        assert [{**one, "why": 0} for one in a.get("lost", [])] == [
            {**one, "why": 0} for one in b.get("lost", [])
        ]
        assert {one["why"] for one in b.get("lost", [])} <= {"unreadable when encoded"}


class Nothing(ImageList):
    """Images of which none is there."""

    def __init__(self, n):
        super().__init__([f"gone/{i}.png" for i in range(n)], [0] * n)


def test_sets_with_unreadable_images_are_known_again(faults):
    first = set_identity(faults.ids)
    assert first == set_identity(faults.ids) != set_identity(ImageList(faults.paths[1:], faults.labels[1:]))
    assert set_identity(Nothing(20)) == set_identity(Nothing(20))


@pytest.mark.parametrize("what", ["test", "encode"])
def test_a_set_of_which_every_image_is_lost_is_an_error_with_count_and_reason(tmp_path, what):
    data = OODDataModule(
        Nothing(20), far={"scenes": Nothing(10)}, class_names=ID_CLASSES, num_workers=0, features=None
    )
    if what == "test":
        with pytest.raises(
            ValueError, match=r"stream 'scenes': .* empty: 30 images could not be read.*FileNotFoundError"
        ):
            run(data, tmp_path)
        assert not (tmp_path / "results.json").exists()
    else:
        data.features = str(tmp_path)
        for _ in range(2):  # nothing is kept that a later run would take for done
            with pytest.raises(
                ValueError, match=r"^id: none of the 20 images can be read: gone/0\.png FileNotFoundError"
            ):
                data.encode(L.Trainer(**QUIET), make_model())
