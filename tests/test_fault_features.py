"""Faulty features and texts, and images that the MLLM cannot have."""

import re
from pathlib import Path

import lightning as L
import pytest
import torch
from fault_parts import QUIET, GoodOnly, make_model, measured, run
from faulty import expected
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, demo
from ants_lightning.data import MixedStream
from ants_lightning.data.raw import RawImages
from ants_lightning.data.reading import open_image
from ants_lightning.demo.shapes import ID_CLASSES


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
    # No other image has their pixels
    drawings = [i for i, (_, _, path) in good.items() if Path(path).stem.isdigit()]
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
        # Features: nothing to show
        raw.keep(torch.zeros(2, 512), torch.arange(2), torch.tensor([True, True]))
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
