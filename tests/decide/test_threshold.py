"""From scores to decisions: the maths against loops, and the thresholds of real runs against the rows they
are learnt from.
"""

import copy
import json
import math

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import merged
from torch.utils.data import DataLoader, DistributedSampler

from ants_lightning import ANTS, NegativeMemory, demo
from ants_lightning.data.calibration import LabelledImages, calibration_loader
from ants_lightning.decide.threshold import Decision, decisive, recall_threshold
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.method.otsu import BINS, histogram, otsu_cut, otsu_edge

unit = st.one_of(st.integers(0, BINS).map(lambda k: k / BINS), st.floats(0, 1))


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


@pytest.mark.parametrize(
    "threshold",
    [
        -0.1,
        1.1,
        float("nan"),
        True,
        "otsu",
        {},
        {"id_recall": 0},
        {"id_recall": 1.5},
        {"recall": 0.9},
        {"id_recall": 0.9, "x": 1.0},
        [0.5],
    ],
)
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        ANTS(demo.CLIP, threshold=threshold)


def test_an_image_on_the_threshold_is_ood():
    decision = Decision(0.5)
    assert decision.decide(
        torch.tensor([0.25, 0.5, math.nextafter(0.5, 0), 0.75], dtype=torch.float64)
    ).tolist() == [0, 1, 0, 1]
    assert (
        Decision(None).decide(torch.tensor([0.5])) is None
        and Decision(1).value == 1.0
        and Decision(0).value == 0.0
    )


def test_what_is_decided_on():
    scores = {
        "mcm": torch.zeros(1),
        "neglabel": torch.ones(1),
        "ants": torch.full((1,), 0.5),
        "energy": torch.full((1,), 0.3),
    }
    assert decisive(scores) is scores["ants"]
    assert decisive({k: v for k, v in scores.items() if k != "ants"}) is scores["neglabel"]
    assert decisive({k: scores[k] for k in ("mcm", "energy")}) is scores["mcm"]


def test_a_score_on_an_edge_is_in_the_bin_above_and_one_in_the_last():
    edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
    counts, sums = histogram(edges)
    assert counts.tolist() == [1] * (BINS - 1) + [2]
    assert torch.equal(sums[:-1], edges[: BINS - 1]) and sums[-1] == edges[-2] + 1
    assert otsu_edge(*histogram(torch.tensor([0.5, 0.501], dtype=torch.float64))) == 0.501


def within(scores, edge):
    """Sum of squares around the means of both sides of an edge, None without scores on both."""
    sides = [x for x in scores if x < edge], [x for x in scores if x >= edge]
    return sum(sum((x - sum(side) / len(side)) ** 2 for x in side) for side in sides) if all(sides) else None


@given(st.lists(unit, max_size=8))
def test_otsu_of_a_histogram_is_as_good_as_the_best_edge_of_a_loop(scores):
    found = otsu_edge(*histogram(torch.tensor(scores, dtype=torch.float64)))
    all_edges = [spread for k in range(1, BINS) if (spread := within(scores, k / BINS)) is not None]
    assert (within(scores, found) == pytest.approx(min(all_edges), abs=1e-12)) if all_edges else found == 0.5


@pytest.mark.parametrize(("low", "high", "share"), [(0.2, 0.8, 0.5), (0.05, 0.6, 0.1), (0.4, 0.97, 0.9)])
def test_otsu_of_a_histogram_agrees_with_that_of_raw_scores_to_the_width_of_its_cuts(low, high, share):
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, generator=generator) * 0.1
    scores = (spread + torch.where(torch.arange(4000) < 4000 * share, high, low)).clamp(0, 1)
    assert otsu_edge(*histogram(scores)) == pytest.approx(otsu_cut(scores), abs=0.01 + 1 / BINS)


def test_otsu_takes_the_middle_of_equal_cuts_and_needs_two_sides():
    assert otsu_edge(*histogram(torch.tensor([0.1055, 0.1255, 0.9055]))) == 0.516  # of 0.126 … 0.905
    for none in ([], [0.3], [0.3001, 0.3002]):
        assert otsu_edge(*histogram(torch.tensor(none))) == 0.5


def test_auto_is_the_cut_of_all_scores_so_far_however_they_came_and_forgets_at_a_new_stream():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(3))
    decision = Decision("auto")
    assert decision.value == 0.5
    for i, part in enumerate(scores.split([1, 0, 499, 300, 200])):
        decision.learn(part)
        if i == 2:
            twin = Decision("auto")
            twin.restore(
                json.loads(json.dumps({"value": decision.value}))
                | {k: decision.state()[k] for k in ("counts", "sums")}
            )
    assert decision.value == otsu_edge(*histogram(scores))
    twin.learn(scores[500:])
    assert twin.value == decision.value and all(
        torch.equal(twin.state()[k], decision.state()[k]) for k in ("counts", "sums")
    )
    decision.reset()
    assert decision.value == 0.5 and not decision.state()["counts"].any()
    fixed = Decision(0.25)
    fixed.learn(scores)
    fixed.reset()
    assert fixed.value == 0.25


@given(st.lists(st.one_of(unit, st.sampled_from([0.25, 0.5])), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_recall_threshold_is_the_smallest(scores, recall):
    t = recall_threshold(torch.tensor(scores, dtype=torch.float64), recall)
    accepted = [sum(x < at for x in scores) / len(scores) for at in (math.nextafter(t, 0), t)]
    assert accepted[0] < recall <= accepted[1] + 1e-9


@pytest.mark.parametrize("percent", [5, 7, 29, 58, 95, 100])
def test_a_recall_in_hundredths_is_met_exactly(percent):
    for n in range(1, 201):
        scores = torch.arange(n) / 200
        accepted = int((scores.double() < recall_threshold(scores, percent / 100)).sum())
        assert accepted == -(-percent * n // 100)


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
    scores = torch.cat(
        [decisive(model(part)["scores"]) for part in images]
    )  # in the spaces that the last stream ended with
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
