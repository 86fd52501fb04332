"""Whether a run says when it did not work: the question before the stream, faults, marks, and the exit
code.
"""

import json

import pytest
from PIL.Image import Image

from ants_lightning import cli, demo
from ants_lightning.data import OODDataModule
from ants_lightning.data.raw import RawImages
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.health import Health, adaptation_faults, commonest, stream_faults
from ants_lightning.mllm.first_question import ask_first, picture
from ants_lightning.run.summary import summarise
from ants_lightning.run.table import to_csv, to_markdown


class Saying:
    """Answers with what it is given; an exception is raised."""

    def __init__(self, sentence="a thing {}", names="odd {}", first=True):
        self.sentence, self.names, self.n, self.replays = sentence, names, 0, not first

    def setup(self, device):
        pass

    def describe(self, images, avoid):
        if isinstance(self.sentence, Exception):
            raise self.sentence
        self.n += len(images)
        return [self.sentence.format(self.n - i) for i in range(len(images))]

    def similar_classes(self, names, count=5, images=None):
        return [[self.names.format(name)] if self.names else [] for name in names]


def test_the_picture_is_the_same_everywhere():
    assert isinstance(picture(), Image) and picture().getpixel((112, 112)) == (210, 40, 40)


@pytest.mark.parametrize(
    ("mllm", "why"),
    [
        (Saying(), ""),
        (
            Saying(RuntimeError("no weights")),
            "asked to describe a picture it raised RuntimeError: no weights",
        ),
        (Saying(""), "asked to describe a picture it gave nothing usable"),
        (Saying(names=""), "asked to name classes similar to 'cat' it gave nothing usable"),
        (Saying(RuntimeError("unasked"), first=False), ""),
    ],
)
def test_what_an_mllm_cannot_do_is_known_before_the_stream(mllm, why):
    assert ask_first(mllm, "cat", 5) == why


def test_a_run_does_not_begin_with_an_mllm_that_cannot_answer_unless_told(run):
    with pytest.raises(
        RuntimeError, match=r"rank 0: asked to describe a picture it raised OSError: no weights.*on_failure"
    ):
        run(Saying(OSError("no weights")))
    _, model, results = run(Saying(OSError("no weights"), names=""), on_failure="continue")
    for stream in results["streams"].values():
        (fault,) = stream["faults"]
        assert fault["kind"] == (
            "no_answer" if stream["health"]["asked"] else "never_adapted"
        )  # asked less and less
        assert fault["scores"] == ["ens", "vsnl", "ants"] and "OSError: no weights" in fault["text"]
        assert stream["health"]["answered"] == 0
        assert stream["scores"]["ants"] == stream["scores"]["neglabel"]
    (summary,) = summarise([results])
    assert (
        all(column.meaningless == {"ens", "vsnl", "ants"} for column in summary.columns)
        and len(summary.warnings) == 3
    )
    assert "!" in to_markdown(summary) and ",True" in to_csv([summary])
    assert set(model.faults) == set(results["streams"])


def test_one_answer_to_most_questions_is_a_refusal_whatever_it_says(run, tmp_path):
    memory, model, results = run(Saying("not my department"), ens={"init": "empty"})
    assert not len(model.spaces.ens) and memory.refresher.health.repeated[0] == "notmydepartment"
    for stream in results["streams"].values():
        assert (
            "same_answer" in [fault["kind"] for fault in stream["faults"]]
            and stream["health"]["identical"] == 1
        )


def test_one_list_of_names_for_most_classes_is_a_refusal():
    answers = {f"class {i}": ["cat", "dog"] if i % 3 else [f"other {i}"] for i in range(30)}
    assert Health().refuse_names(answers) == ["cat", "dog"]
    assert Health().refuse_names(dict(list(answers.items())[:29])) == []


def test_a_stream_of_few_batches_is_learnt_from_in_its_middle_and_at_its_end(run):
    memory, _, results = run(Saying(), schedule={"every": 100})  # 8 batches of 16 images
    health = results["streams"]["scenes"]["health"]
    assert health["sync_points"] == 2 and health["adapted"] == {"ens": 64, "vsnl": 64}
    assert not results["streams"]["scenes"]["faults"]
    assert memory.bank.n_seen == 128


def test_what_is_left_after_the_last_sync_point_is_learnt_from_at_the_end(run):
    memory, _, results = run(Saying(), schedule={"every": 3})
    assert results["streams"]["scenes"]["health"]["sync_points"] == 3 and memory.bank.n_seen == 128


def test_images_that_cannot_be_read_again_are_said_to_be_the_reason(run, monkeypatch):
    def gone(images, index):
        raise OSError("stale file handle")

    monkeypatch.setattr(RawImages, "__getitem__", gone)
    _, _, results = run(Saying())
    (fault,) = results["streams"]["scenes"]["faults"]
    health = results["streams"]["scenes"]["health"]
    assert fault["kind"] == "never_adapted" and fault["scores"] == ["ens", "ants"] and health["unread"] > 0
    assert fault["text"].endswith(
        f"in ENS: {health['unread']} images could not be read again to be shown to it"
    )


def test_a_stream_too_small_for_a_refresh_says_so(run):
    _, _, results = run(Saying(), schedule={"min_images": 10_000})
    (fault,) = results["streams"]["scenes"]["faults"]
    assert fault["kind"] == "never_adapted" and "128 images, schedule.min_images is 10,000" in fault["text"]


def test_images_left_out_make_all_columns_meaningless_from_a_tenth_on():
    result = {"n_id": 450, "n_ood": 450, "n_unreadable": 90, "n_not_finite": 10}
    assert stream_faults(result) == []
    (fault,) = stream_faults({**result, "n_unreadable": 1090})
    assert fault["scores"] is None and fault["text"].startswith(
        "1,100 of 2,000 images were left out: 1,090 could not be read"
    )


def test_most_answers_failing_is_told_though_some_came():
    health = {
        "asked": 100,
        "answered": 20,
        "recalled": 0,
        "cause": "",
        "repeated": [],
        "adapted": {"ens": 5, "vsnl": 5},
    }
    assert [fault["text"] for fault in adaptation_faults(health)] == ["the MLLM answered 20 of 100 questions"]
    assert adaptation_faults({**health, "answered": 60}) == []


def test_the_commonest_answer_needs_enough_answers():
    assert commonest(["a"] * 19) == (None, 0.0) and commonest(["a"] * 15 + ["b"] * 5) == ("a", 0.75)


def test_the_command_ends_with_3_where_nothing_was_learnt_and_the_results_are_there(tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "test",
                "--config",
                "configs/demo.yaml",
                "--data.n_id",
                "24",
                "--data.n_ood",
                "24",
                "--trainer.accelerator",
                "cpu",
                "--trainer.default_root_dir",
                str(tmp_path),
                "--trainer.enable_progress_bar",
                "false",
            ]
        )
    assert ended.value.code == cli.NOT_WORKED == 3
    streams = json.loads((tmp_path / "results.json").read_text())["streams"]
    assert all("min_images is 100" in stream["faults"][0]["text"] for stream in streams.values())


def test_a_question_to_a_predicting_run_counts_too(tmp_path):
    import lightning as L

    from ants_lightning import ANTS, NegativeMemory

    data = OODDataModule(
        demo.DrawnImages(ID_CLASSES, 32, 1),
        near={"x": demo.DrawnImages(NEAR_CLASSES, 32, 2)},
        class_names=ID_CLASSES,
        batch_size=16,
        num_workers=0,
    )
    model = ANTS(demo.CLIP, **demo.SETTINGS["model"])
    memory = NegativeMemory(
        Saying(OSError("gone"), names=""), schedule={"min_images": 8}, on_failure="continue"
    )
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[memory],
        default_root_dir=tmp_path,
    )
    trainer.predict(model, data, return_predictions=False)
    assert [fault["kind"] for fault in model.faults["x"]] == ["no_answer"]
