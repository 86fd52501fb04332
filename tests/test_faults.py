"""Faulty images, features and texts, end to end: what is lost is the faulty item, and nothing else
changes.
"""

import logging
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from faulty import Faults, expected
from small import merged
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.baselines import CSP, GLMCM, AdaNeg
from ants_lightning.data import ImageList, MixedStream, OODDataModule
from ants_lightning.data.feature_files import set_identity
from ants_lightning.data.raw import RawImages
from ants_lightning.data.reading import open_image
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.mllm.record import pixel_hash

QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


class Shown:
    """Answers by the pixels that it is shown, and keeps them."""

    def __init__(self):
        self.images = []

    def setup(self, device):
        pass

    def describe(self, images, avoid):
        self.images += [pixel_hash(image) for image in images]
        words = demo.WORDS["nouns"]
        return [f"a {words[int(pixel_hash(image)[:6], 16) % len(words)]} on sand" for image in images]

    def similar_classes(self, names, count=5):
        return [[f"odd {name}", f"strange {name}"] for name in names]


class GoodOnly(L.LightningDataModule):
    """The batches of a stream, made beforehand of its good images by a plain loop; the images for the MLLM
    are those.
    """

    def __init__(self, faults, stream, transform, size):
        super().__init__()
        good, _ = expected(faults, stream, transform)
        self.class_names, self.groups, self.stream, self.batches = ID_CLASSES, {"scenes": "far"}, stream, []
        for start in range(0, len(stream), size):
            here = [i for i in range(start, min(start + size, len(stream))) if i in good]
            image = torch.stack([good[i][0] for i in here]) if here else torch.empty(0, 3, 1, 1)
            label, index = (torch.tensor(column).long() for column in ([good[i][1] for i in here], here))
            self.batches.append({"image": image, "label": label, "index": index})

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k]

    def raw_image(self, index):
        return self.stream.raw_image(index)

    def test_dataloader(self):
        return {"scenes": DataLoader(self, batch_size=None)}


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))


def run(data, root, model=None, what="test", **settings):
    model, mllm, report = model or make_model(), Shown(), Report()
    memory = NegativeMemory(mllm, **merged({"record": None, **settings}))
    trainer = L.Trainer(**QUIET, callbacks=[memory, report], default_root_dir=root)
    if what == "predict":
        return trainer.predict(model, data), mllm
    trainer.test(model, data, verbose=False)
    return model, mllm, report.results["streams"]["scenes"]


def measured(result, **changes):
    return {**result, "mllm_seconds": 0, "stream": 0, **changes}


@pytest.fixture(scope="module")
def uncached(faults, tmp_path_factory):
    return run(faults.data(), tmp_path_factory.mktemp("uncached"))


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
def test_batches_that_are_lost_altogether_do_not_end_a_run(faults, uncached, tmp_path, cached):
    features = str(tmp_path) if cached else None
    model = make_model(baselines=[AdaNeg(), CSP()] if cached else [AdaNeg(), GLMCM()])
    if cached:
        faults.data(features=features).encode(L.Trainer(**QUIET), make_model())
    data = faults.data(features=features, batch_size=1)  # each lost image is a batch
    result = run(data, tmp_path, model, schedule={"every": 1})[2]
    assert (result["n_unreadable"], result["n_id"], result["n_ood"]) == (9, 56, 30)
    for score in ("mcm", "neglabel"):
        assert result["scores"][score] == pytest.approx(uncached[2]["scores"][score], abs=1e-5)


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


def test_prediction_tells_what_was_lost_and_the_log_each_kind_once(faults, tmp_path, caplog):
    outputs, _ = run(faults.data(), tmp_path, what="predict")
    kinds = {one["why"].split(":")[0] for out in outputs for one in out["lost"]}
    logged = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert len(logged) == len(kinds) and kinds >= set(faults.why.values())
    data = faults.data(transform=lambda image: image)
    data.setup("predict")
    good, lost = expected(faults, data.streams["scenes"], lambda image: None)
    assert [i for out in outputs for i in out["index"].tolist()] == sorted(good)
    assert [path for out in outputs for path in out["path"]] == [good[i][2] for i in sorted(good)]
    told = {one["index"]: (one["path"], one["label"]) for out in outputs for one in out["lost"]}
    assert told == lost and all(one["why"] for out in outputs for one in out["lost"])
    assert all(len(score) == len(out["index"]) for out in outputs for score in out["scores"].values())


class Poison:
    """A forward hook on the image tower: the features of certain images become NaN or Inf."""

    def __init__(self, model, images, value):
        self.inputs, self.value = torch.stack(images), value
        model.clip.visual.register_forward_hook(self)

    def __call__(self, tower, inputs, features):
        same = (inputs[0][:, None] == self.inputs).flatten(2).all(2).any(1)
        return torch.where(same[:, None], self.value, features)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_whose_features_are_not_finite_are_left_out_and_counted(faults, uncached, tmp_path, value):
    model = make_model()
    data = faults.data(transform=model.preprocess)
    data.setup("test")
    stream = data.streams["scenes"]
    good, _ = expected(faults, stream, model.preprocess)
    drawings = [
        i for i, (_, _, path) in good.items() if Path(path).stem.isdigit()
    ]  # no other image has their pixels
    bad = {i: good[i] for i in (*drawings[8:14], drawings[-1])}
    Poison(model, [image for image, _, _ in bad.values()], value)
    _, mllm, result = run(faults.data(), tmp_path, model)
    n_ood = sum(label < 0 for _, label, _ in bad.values())
    assert (result["n_not_finite"], result["n_unreadable"]) == (7, 9) and 0 < n_ood < 7
    assert (result["n_id"], result["n_ood"]) == (56 - 7 + n_ood, 30 - n_ood)
    reference = GoodOnly(faults, stream, model.preprocess, 8)
    for k, batch in enumerate(reference.batches):
        keep = ~torch.isin(batch["index"], torch.tensor(list(bad)))
        reference.batches[k] = {name: column[keep] for name, column in batch.items()}
    _, other, alone = run(reference, tmp_path)
    # the tower sees other batches: float rounding
    assert measured(result, scores=0, n_not_finite=0, health=0, faults=0) == (
        pytest.approx(measured(alone, scores=0, n_unreadable=9, health=0, faults=0), abs=1e-5)
    )
    assert mllm.images == other.images
    for score, found in alone["scores"].items():
        assert result["scores"][score] == pytest.approx(found, abs=1e-5)
    cache = faults.data(features=str(tmp_path / "cache"))
    cache.encode(L.Trainer(**QUIET), model)
    cached = run(cache, tmp_path)[2]
    assert (cached["n_not_finite"], cached["n_unreadable"], cached["n_id"]) == (7, 9, result["n_id"])
    outputs, _ = run(faults.data(), tmp_path, model, "predict")
    told = {
        one["index"]: one["path"]
        for out in outputs
        for one in out["lost"]
        if one["why"] == "NaN or Inf features"
    }
    assert told == {i: path for i, (_, _, path) in bad.items()}
    assert sorted([i for out in outputs for i in out["index"].tolist()] + list(bad)) == sorted(good)


def test_a_class_text_that_encodes_to_zero_is_named_before_the_first_batch(faults, tmp_path, monkeypatch):
    model = make_model()
    text = f"The nice {ID_CLASSES[2]}."
    tokens, encode_text = model.encoder.tokenizer([text])[0], model.clip.encode_text

    def zero(batch, *args, **kwargs):
        return encode_text(batch, *args, **kwargs) * (batch != tokens).any(1, keepdim=True)

    monkeypatch.setattr(model.clip, "encode_text", zero)
    monkeypatch.setattr(ANTS, "test_step", lambda *_: pytest.fail("a batch was run"))
    with pytest.raises(ValueError, match=f"the text '{text}' encodes to 0 or NaN"):
        run(faults.data(), tmp_path, model)
    assert not (tmp_path / "results.json").exists()


def test_an_image_that_goes_missing_before_the_mllm_asks_is_a_failure_of_that_question_alone(
    faults, tmp_path, monkeypatch
):
    data, gone = faults.data(), []
    read = MixedStream.raw_image

    def vanish(stream, index):
        if index % 3 == 0:
            gone.append(index)
            return open_image(tmp_path / "gone.png")
        return read(stream, index)

    monkeypatch.setattr(MixedStream, "raw_image", vanish)
    _, mllm, result = run(data, tmp_path)
    assert (
        len(set(gone)) == result["mllm_failures"] > 0
        and mllm.images
        and (result["n_id"], result["n_ood"]) == (56, 30)
    )


def test_images_for_the_mllm_need_a_normalize_only_where_a_set_gives_none_back(faults):
    data = faults.data(transform=pil_to_tensor)
    data.setup("test")
    place = int((data.streams["scenes"].order == 0).nonzero())
    assert RawImages(data.streams["scenes"], pil_to_tensor, 4)[place].size == (64, 64)
    with pytest.raises(
        ValueError,
        match=r"list has no raw_image\(index\), and the preprocessing no Normalize .*pil_to_tensor",
    ):
        RawImages([], pil_to_tensor, 4)
    for raw in (RawImages([], pil_to_tensor, 0), RawImages([], ANTS(demo.CLIP).preprocess, 4)):
        raw.keep(
            torch.zeros(2, 512), torch.arange(2), torch.tensor([True, True])
        )  # features: nothing to show
        with pytest.raises(KeyError):
            raw[0]


def test_the_tests_that_the_table_of_faults_names_exist():
    tests = Path(__file__).parent
    named = set(
        re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (tests.parent / "docs/faults.md").read_text("utf-8"))
    )
    assert len(named) > 40
    texts = {path.name: path.read_text("utf-8") for path in tests.rglob("test_*.py")}
    missing = [name for name in named if f"def {name[1]}(" not in texts[name[0]] and name[1]]
    assert not missing
