"""A data module that knows nothing of this package, end to end."""

import pytest
import torch
from foreign_parts import (
    ForeignDataModule,
    N,
    RecordingMLLM,
    make_model,
    make_trainer,
    memory,
    mixed,
    read,
    tensors,
)
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, demo
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.mllm import TransformersMLLM

FIRST = 2  # questions before the stream: a picture and a name


@pytest.mark.parametrize("several", [False, True], ids=["one loader", "dict of loaders"])
def test_foreign_module_end_to_end(tmp_path, several):
    model, mllm = make_model(), RecordingMLLM()
    streams = {name: mixed(model, seed) for name, seed in (("left", 1), ("right", 11))}
    if not several:
        streams = {"test": streams["left"]}
    data = {name: data for name, (data, _) in streams.items()}
    trainer = make_trainer(tmp_path, memory(mllm))
    trainer.test(model, ForeignDataModule(data if several else data["test"]), verbose=False)

    results = read(tmp_path)
    assert list(results["streams"]) == list(streams)
    assert list(results["groups"]) == ["ood"]
    for stream in results["streams"].values():
        assert (stream["n_id"], stream["n_ood"]) == (N, N)
        assert stream["mllm_calls"] > 0
        assert stream["mllm_failures"] == 0
        assert stream["n_vsnl"] > 0
        assert set(stream["scores"]) == {"mcm", "neglabel", "ens", "vsnl", "ants"}
    assert sum(stream["mllm_calls"] for stream in results["streams"].values()) == mllm.asked - FIRST
    assert mllm.device == torch.device("cpu")

    # The images shown are those of the stream, de-normalised, each with its own predicted name, stream after
    # stream.
    pixels = torch.cat([pixels for _, pixels in streams.values()]).int()
    shown = torch.stack([pil_to_tensor(image) for image in mllm.images[1:]]).int()
    distance = torch.stack([(pixels - image).abs().amax((1, 2, 3)) for image in shown])
    nearest, place = distance.min(1)
    assert nearest.max() <= 1
    assert len(place.unique()) == len(place)  # none is described twice
    assert set((place // (2 * N)).tolist()) == set(range(len(streams)))
    assert (place // (2 * N)).diff().ge(0).all()
    prediction = model(torch.cat([d.tensors[0] for d in data.values()]))["prediction"][place]
    assert mllm.avoid[1:] == [ID_CLASSES[i] for i in prediction.tolist()]


def test_one_class_stream_is_refused_by_name_after_the_others_are_reported(tmp_path):
    model = make_model()
    only_id = tensors(model, demo.DrawnImages(ID_CLASSES, N, 5))
    data = {"known only": only_id, "good": mixed(model, 1)[0]}
    with pytest.raises(ValueError, match=r"stream 'known only'.*36 ID and 0 OOD"):
        make_trainer(tmp_path, memory(RecordingMLLM())).test(model, ForeignDataModule(data), verbose=False)
    streams = read(tmp_path)["streams"]
    assert list(streams) == ["good"]
    assert 0 <= streams["good"]["scores"]["ants"]["auroc"] <= 1
    assert streams["good"]["mllm_calls"] > 0


def test_mllm_that_raises_on_every_third_call_is_counted_and_asked_again(tmp_path, caplog):
    model, mllm = make_model(), RecordingMLLM(fail_every=3)
    make_trainer(tmp_path, memory(mllm)).test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    stream = read(tmp_path)["streams"]["test"]
    assert mllm.calls >= 3
    assert stream["mllm_calls"] == mllm.asked - FIRST
    assert stream["mllm_failures"] == mllm.failed > 0
    assert stream["n_vsnl"] > 0
    assert (stream["n_id"], stream["n_ood"]) == (N, N)
    warnings = [record.getMessage() for record in caplog.records if "out of order" in record.getMessage()]
    assert 1 <= len(warnings) <= 2  # once for each kind of question


def test_mllm_that_always_raises_leaves_neglabel(tmp_path):
    model, mllm = make_model(), RecordingMLLM(fail_every=1)
    trainer = make_trainer(tmp_path, memory(mllm, on_failure="continue"))
    trainer.test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    stream = read(tmp_path)["streams"]["test"]
    assert (
        stream["mllm_failures"] == stream["mllm_calls"] == mllm.asked - 1 > 0
    )  # the first question was a picture alone
    assert stream["scores"]["ants"] == pytest.approx(stream["scores"]["neglabel"], abs=1e-3)


def test_missing_mllm_folder_is_an_error_before_the_run(tmp_path, monkeypatch):
    model, folder = make_model(), tmp_path / "no such model"
    monkeypatch.setattr(ANTS, "test_step", lambda *_: pytest.fail("the run has started"))
    with pytest.raises((OSError, ValueError), match="no such model"):
        trainer = make_trainer(tmp_path, memory(TransformersMLLM(str(folder))))
        trainer.test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    assert not (tmp_path / "results.json").exists()
