"""Thresholds of real runs against the rows that they are learnt from."""

import copy

import lightning as L
import pytest
import torch
from small import merged
from torch.utils.data import DataLoader, DistributedSampler

from ants_lightning import ANTS, NegativeMemory, demo
from ants_lightning.data.calibration import LabelledImages, calibration_loader
from ants_lightning.decide.threshold import decisive, recall_threshold
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.method.otsu import histogram, otsu_edge


class Calibrated(demo.DemoDataModule):
    """Streams with other images to set a threshold by."""

    def __init__(self, loader):
        super().__init__(seed=7, n_id=8, n_ood=8, batch_size=16)
        self.loader = loader

    def val_dataloader(self):
        return self.loader


def started(threshold, *callbacks, folder):
    model = ANTS(demo.CLIP, **demo.SETTINGS["model"], threshold=threshold)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    return model, trainer


def memory_of(small_demo, **settings):
    return NegativeMemory(PerfectCaptions(small_demo), **merged(settings))


def predicted(data, threshold, *callbacks, folder):
    """The model, and the outputs of each batch of each stream."""
    model, trainer = started(threshold, *callbacks, folder=folder)
    return model, trainer.predict(model, data)


@pytest.fixture(scope="module")
def id_images():
    return demo.DrawnImages(ID_CLASSES, 40, 99)


@pytest.fixture
def calibrated(small_demo, id_images):
    data = copy.copy(small_demo)
    data.calibration = id_images
    return data


def test_auto_is_learnt_at_sync_points_from_the_scores_of_earlier_batches(small_demo, tmp_path):
    _, streams = predicted(small_demo, "auto", memory_of(small_demo), folder=tmp_path)
    thresholds = set()
    for stream in streams:
        seen = torch.empty(0)
        for k, batch in enumerate(stream):
            if k % 2 == 0:  # sync points are after every second batch
                wanted = otsu_edge(*histogram(seen)) if len(seen) else 0.5
            assert batch["threshold"] == wanted
            assert batch["is_ood"].tolist() == [x >= wanted for x in batch["scores"]["ants"].tolist()]
            seen = torch.cat([seen, batch["scores"]["ants"]])
            thresholds.add(wanted)
    assert len(thresholds) > 3


def test_auto_cuts_what_is_decided_on_also_without_an_mllm_and_with_baselines(small_demo, tmp_path):
    from ants_lightning.baselines import Energy

    model = ANTS(demo.CLIP, negatives=demo.WORDS, threshold="auto", baselines=[Energy()])
    trainer = started(None, NegativeMemory(schedule={"every": 2}), folder=tmp_path)[1]
    stream = trainer.predict(model, small_demo)[0]
    assert list(stream[0]["scores"])[-1] == "energy"
    seen = torch.cat([batch["scores"]["neglabel"] for batch in stream[:6]])
    assert stream[6]["threshold"] == otsu_edge(*histogram(seen)) != 0.5
    assert torch.equal(
        stream[6]["is_ood"], stream[6]["scores"]["neglabel"].double() >= stream[6]["threshold"]
    )


def test_id_recall_accepts_that_share_of_labelled_id_images_and_follows_the_spaces(
    small_demo, calibrated, id_images, tmp_path
):
    memory = memory_of(small_demo)
    model, streams = predicted(calibrated, {"id_recall": 0.9}, memory, folder=tmp_path)
    images = torch.stack([model.preprocess(id_images[i][0]) for i in range(40)]).split(16)
    # In the spaces that the last stream ended with
    scores = torch.cat([decisive(model(part)["scores"]) for part in images])
    assert int((scores.double() < model.threshold).sum()) == 36
    for stream in streams:
        found = [batch["threshold"] for batch in stream]
        assert found[0] == found[1] == streams[0][0]["threshold"] and len(set(found)) > 2
    fresh = ANTS(demo.CLIP, **demo.SETTINGS["model"], class_names=small_demo.class_names)
    fresh.setup("predict")
    fresh.prepare()
    scores = torch.cat([fresh(part)["scores"]["ants"] for part in images])
    assert streams[0][0]["threshold"] == pytest.approx(recall_threshold(scores, 0.9), abs=1e-6)


def test_images_with_a_negative_label_and_unreadable_ones_do_not_count(id_images, tmp_path, caplog):
    class Torn(LabelledImages):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            if index >= 35:
                item["label"] = -1
            return item

    class Broken(demo.DrawnImages):
        def __getitem__(self, index):
            if index in (1, 30):
                raise OSError("torn")
            return super().__getitem__(index)

    images = Broken(ID_CLASSES, 40, 99)
    model, trainer = started({"id_recall": 0.5}, folder=tmp_path)
    loader = DataLoader(
        Torn(images, model.preprocess),
        batch_size=8,
        collate_fn=calibration_loader(images, None, 1, 0).collate_fn,
    )
    with caplog.at_level("INFO", "ants_lightning"):
        trainer.predict(model, Calibrated(loader))
    assert "33 labelled ID images (left out: 5 with a negative label, 2 lost)" in caplog.text
    kept = [id_images[i][0] for i in range(35) if i not in (1, 30)]
    scores = model(torch.stack([model.preprocess(image) for image in kept]))["scores"]["ants"]
    assert int((scores.double() < model.threshold).sum()) == 17


def loader_of(images, model, **settings):
    return DataLoader(LabelledImages(images, model.preprocess), batch_size=8, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images, model: [], "no ID image .*0 negative"),
        (
            lambda images, model: DataLoader([{"image": torch.zeros(3, 64, 64), "label": -1}] * 3),
            "no ID image .*3 negative",
        ),
        (lambda images, model: DataLoader(torch.zeros(4, 3, 64, 64), batch_size=2), "needs labels"),
        (
            lambda images, model: loader_of(images, model, sampler=DistributedSampler(images, 2, 0)),
            "DistributedSampler",
        ),
    ],
)
def test_what_cannot_set_a_threshold_is_an_error_before_the_stream(id_images, tmp_path, make, message):
    model, trainer = started({"id_recall": 0.9}, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        trainer.predict(model, Calibrated(make(id_images, model)))


def test_id_recall_needs_a_data_module_and_auto_a_memory(small_demo, tmp_path):
    model, trainer = started({"id_recall": 0.9}, folder=tmp_path)
    model.hparams["class_names"] = small_demo.class_names
    with pytest.raises(ValueError, match="no data module"):
        trainer.predict(model, DataLoader(torch.zeros(4, 3, 64, 64), batch_size=2))

    class Bare(L.LightningDataModule):
        class_names = small_demo.class_names

        def predict_dataloader(self):
            return DataLoader(torch.zeros(4, 3, 64, 64), batch_size=2)

    with pytest.raises(ValueError, match="Bare has none"):
        trainer.predict(model, Bare())
    with pytest.raises(ValueError, match="no ID image"):
        predicted(small_demo, {"id_recall": 0.9}, folder=tmp_path)
    for callbacks in ([], [memory_of(small_demo, adapt=False)]):
        with pytest.raises(ValueError, match="auto needs a NegativeMemory"):
            predicted(small_demo, "auto", *callbacks, folder=tmp_path)


@pytest.mark.parametrize("threshold", ["auto", {"id_recall": 0.9}])
def test_a_test_run_decides_as_prediction_does(small_demo, calibrated, tmp_path, threshold):
    model, trainer = started(threshold, memory_of(small_demo), folder=tmp_path)
    trainer.test(model, calibrated, verbose=False)
    _, streams = predicted(calibrated, threshold, memory_of(small_demo), folder=tmp_path)
    for stream, result in zip(streams, model.results.values(), strict=True):
        label, is_ood = (torch.cat([batch[name] for batch in stream]) for name in ("label", "is_ood"))
        assert result["id_accepted"] == pytest.approx(float((~is_ood[label >= 0]).float().mean()))
        assert result["ood_rejected"] == pytest.approx(float(is_ood[label < 0].float().mean()))
