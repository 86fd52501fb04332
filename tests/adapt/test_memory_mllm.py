"""What the callback asks and shows, and MLLMs that fail."""

import copy

import pytest

from ants_lightning.data.raw import RawImages
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES


class EveryThird(PerfectCaptions):
    """Raises on every third call."""

    calls = 0

    def answer(self, method, *args):
        self.calls += 1
        if self.calls % 3 == 0:
            raise TimeoutError("too slow")
        return method(*args)

    def describe(self, images, avoid):
        return self.answer(super().describe, images, avoid)

    def similar_classes(self, names, count=5, images=None):
        return self.answer(super().similar_classes, names, count, images)


def test_an_mllm_that_fails_on_every_third_call_does_not_end_the_run(run, small_demo):
    mllm = EveryThird(small_demo)
    results = run(mllm, schedule={"every": 1})[2]
    assert mllm.calls > 9
    for stream in results["streams"].values():
        assert 0 < stream["mllm_failures"] < stream["mllm_calls"] and stream["n_ens"] > 0 < stream["n_vsnl"]


def test_images_that_cannot_be_read_are_skipped_and_counted_once(run, monkeypatch):
    read = RawImages.__getitem__

    def torn(images, index):
        if index % 5 == 0:
            raise OSError(f"image {index} is truncated")
        return read(images, index)

    monkeypatch.setattr(RawImages, "__getitem__", torn)
    memory, _, results = run(vsnl={"show_images": True})
    stream, bank = results["streams"]["scenes"], memory.bank.rows
    lost = bank["described"] & (bank["index"] % 5 == 0)
    assert 0 < int(lost.sum()) <= stream["mllm_failures"] < stream["mllm_calls"] and stream["n_ens"] > 0


def test_on_failure_raise_ends_the_run_with_what_failed(run, small_demo):
    with pytest.raises(RuntimeError, match=r"rank 0: mllm\.\w+: TimeoutError: too slow"):
        run(EveryThird(small_demo), schedule={"every": 1}, on_failure="raise")


class Eyes(PerfectCaptions):
    """Keeps what it was shown beside class names."""

    def __init__(self, data):
        super().__init__(data)
        self.shown = []

    def similar_classes(self, names, count=5, images=None):
        self.shown += zip(names, images, strict=True)
        return super().similar_classes(names, count, images)


def test_vsnl_with_eyes_shows_the_likeliest_negative_image_predicted_as_the_class(run, small_demo):
    alone = copy.copy(small_demo)
    alone.ood_sets = {"lookalikes": small_demo.ood_sets["lookalikes"]}
    mllm = Eyes(alone)
    memory, _, results = run(
        mllm,
        data=alone,
        vsnl={"show_images": True},
        schedule={"every": 8, "min_images": 100},  # one sync point, at the end
    )
    bank = memory.bank.rows
    negative = bank["id_score"] <= memory.bank.gamma_star
    shown = dict(mllm.shown)
    assert len(shown) == 12 and any(image is None for image in shown.values())
    for name, image in shown.items():
        rows = (negative & (bank["prediction"] == ID_CLASSES.index(name))).nonzero()[:, 0]
        assert (image is None) == (len(rows) == 0)
        if image is not None:
            best = int(bank["index"][rows[bank["id_score"][rows].argmin()]])
            assert image.tobytes() == memory._raw[best].tobytes()
    assert results["streams"]["lookalikes"]["mllm_failures"] == 0


@pytest.mark.parametrize("init", ["neglabel", "empty"])
def test_the_ens_queue_starts_as_told(run, init):
    _, model, _ = run(ens={"init": init}, schedule={"min_images": 10_000})
    assert model.spaces.ens.labels == (model.spaces.neglabel.labels if init == "neglabel" else [])
