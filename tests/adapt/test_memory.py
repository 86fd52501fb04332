"""The callback on the demo: when it learns, what it asks, and what it leaves."""

import copy
import io
import weakref

import pytest
import torch

from ants_lightning import NegativeMemory, demo
from ants_lightning.data.raw import RawImages
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.method.weight import adaptive_weight


class Watched(PerfectCaptions):
    """Perfect captions that keep a list of what they were asked."""

    def __init__(self, data):
        super().__init__(data)
        self.images, self.names = [], []

    def describe(self, images, avoid):
        self.images += [image.tobytes() for image in images]
        return super().describe(images, avoid)

    def similar_classes(self, names, count=5, images=None):
        self.names += names
        return super().similar_classes(names, count, images)


def test_each_image_and_each_class_of_a_stream_is_asked_for_once(run, small_demo):
    mllm = Watched(small_demo)
    run(mllm)
    streams = len(small_demo.ood_sets)
    assert len(mllm.images) > 0 and max(mllm.images.count(image) for image in set(mllm.images)) <= streams
    assert max(mllm.names.count(name) for name in set(mllm.names)) <= streams


@pytest.mark.parametrize("eyes", [False, True])
def test_no_more_images_are_in_memory_than_go_into_one_call(run, small_demo, monkeypatch, eyes):
    alive, most, read = weakref.WeakValueDictionary(), [], RawImages.__getitem__

    def counted(images, index):
        image = read(images, index)
        alive[len(most)] = image
        most.append(len(alive))
        return image

    monkeypatch.setattr(RawImages, "__getitem__", counted)
    mllm = Watched(small_demo)
    mllm.at_once = 3
    run(mllm, vsnl={"show_images": eyes})
    assert len(mllm.images) > 100 and max(most) == 3


def test_results_follow_the_contract(run):
    _, _, results = run()
    assert (
        set(results) == {"versions", "seed", "benchmark", "model", "settings", "streams", "groups"}
        and results["seed"] == 7
    )
    assert results["model"] == {"name": demo.CLIP, "pretrained": None} and results["benchmark"] is None
    assert (
        results["settings"]["memory"]["mining"]["eta"] == 0.5
        and results["settings"]["model"]["negatives"]["nouns"][:3] == "41 "
    )
    keys = {
        "group",
        "n_id",
        "n_ood",
        "n_unreadable",
        "n_not_finite",
        "id_accuracy",
        "lambda",
        "lambda_paper",
        "lambda_prequential",
        "gamma",
        "n_negative_images",
        "n_ens",
        "n_vsnl",
        "n_dropped",
        "mllm_calls",
        "mllm_recalled",
        "mllm_failures",
        "mllm_seconds",
        "scores",
        "stream",
        "faults",
        "health",
    }
    for stream in results["streams"].values():
        assert set(stream) == keys and (stream["n_id"], stream["n_ood"], stream["mllm_failures"]) == (
            64,
            64,
            0,
        )
        assert list(stream["scores"]) == ["mcm", "neglabel", "ens", "vsnl", "ants"]
        assert set(stream["scores"]["ants"]) == {"auroc", "fpr95", "fpr95_openood", "aupr_in", "aupr_out"}
    far = [results["streams"][name]["scores"]["ens"]["auroc"] for name in ("textures", "scenes")]
    assert results["groups"]["far"]["ens"]["auroc"] == pytest.approx(sum(far) / 2)


def test_before_the_first_refresh_everything_is_neglabel(run):
    _, _, results = run(schedule={"min_images": 10_000})
    for stream in results["streams"].values():
        assert stream["scores"]["ants"] == stream["scores"]["vsnl"] == stream["scores"]["neglabel"]
        assert stream["mllm_calls"] == stream["n_vsnl"] == 0


def test_the_guard_holds_where_there_is_nothing_but_id(run, small_demo):
    more = copy.copy(small_demo)
    more.ood_sets = {"more": demo.DrawnImages(ID_CLASSES, 64, seed=3)}
    more.groups = {"more": "near"}
    held, free = (
        run(data=more, schedule={"min_separation": least})[2]["streams"]["more"] for least in (1.0, 0.0)
    )
    assert held["scores"]["ants"] == held["scores"]["neglabel"] != free["scores"]["ants"]
    assert (held["mllm_calls"], held["n_held"]) == (0, 4) and (free["mllm_calls"] > 0, free["n_held"]) == (
        True,
        0,
    )


@pytest.mark.parametrize("least", [-0.1, 1.1])
def test_min_separation_out_of_range(least):
    with pytest.raises(ValueError, match=f"min_separation .*{least}"):
        NegativeMemory(None, schedule={"min_separation": least})


def test_strict_history_scores_a_batch_before_it_is_learnt_from(run):
    once = {"every": 8, "min_images": 100}  # one sync point, at the last of the 8 batches
    _, _, strict = run(schedule=once)
    _, _, late = run(schedule={**once, "score_after_refresh": True})
    for name, stream in strict["streams"].items():
        assert stream["scores"]["vsnl"] == stream["scores"]["neglabel"] and stream["n_vsnl"] > 0
        assert late["streams"][name]["scores"]["vsnl"] != stream["scores"]["vsnl"]


def test_a_stream_does_not_remember_the_one_before(run, small_demo):
    _, _, together = run()
    alone = copy.copy(small_demo)
    alone.ood_sets = {"scenes": small_demo.ood_sets["scenes"]}
    _, _, single = run(data=alone)
    for key in (
        "lambda",
        "gamma",
        "n_ens",
        "n_vsnl",
    ):  # a text encoded in another batch differs in its last digits
        assert together["streams"]["scenes"][key] == pytest.approx(single["streams"]["scenes"][key], rel=1e-6)
    for score, found in single["streams"]["scenes"]["scores"].items():
        assert together["streams"]["scenes"]["scores"][score] == pytest.approx(found)
    _, _, persisting = run(persist=True)
    assert persisting["streams"]["scenes"]["scores"]["ens"] != single["streams"]["scenes"]["scores"]["ens"]


@pytest.mark.parametrize("weight", ["paper", "prequential"])
def test_lambda_is_the_estimate_asked_for_and_paper_is_eq_14_on_the_current_spaces(run, weight):
    memory, model, results = run(weight=weight)
    stream = results["streams"]["scenes"]  # the last: its memory is still there
    assert stream["lambda"] == stream[f"lambda_{weight}"] == model.spaces.lambda_
    bank = memory.bank
    rows = bank.rows["id_score"] <= bank.gamma_star
    scores = model.score(bank.rows["features"][rows])["scores"]
    assert stream["lambda_paper"] == pytest.approx(adaptive_weight(scores["ens"], scores["vsnl"]), abs=1e-6)
    seen = bank.rows["prequential"][rows & ~bank.rows["prequential"].isnan().any(1)]
    assert stream["lambda_prequential"] == pytest.approx(adaptive_weight(*seen.unbind(1)), abs=1e-6)


def test_state_survives_a_weights_only_file_and_starts_the_next_run(run, small_demo):
    memory, model, _ = run()
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twin = NegativeMemory(PerfectCaptions(small_demo))
    twin.load_state_dict(state)
    assert twin.sentences == model.spaces.ens.labels and twin.answers == memory.answers
    assert torch.equal(twin.bank.history, memory.bank.history)
    for name, column in memory.bank.rows.items():
        assert torch.equal(twin.bank.rows[name].nan_to_num(), column.nan_to_num())
