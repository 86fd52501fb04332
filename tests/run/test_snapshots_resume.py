"""What is gone on from, what is refused, and disks that are full."""

import logging
import os
import resource
import shutil
import subprocess

import pytest
from snapshot_parts import CPU, At, Job

from ants_lightning import demo
from ants_lightning.run.snapshot_files import (
    list_snapshots,
    read_share,
    unpack,
    write_share,
)


def test_one_test_after_another_with_the_same_objects(again, whole):
    """What was resumed once is not skipped the second time."""
    model = again.make_model()
    assert again.run(resume="auto", model=model) == whole and again.at.seen == 14
    (again.folder / "mllm.jsonl").unlink()
    again.run(model=model)
    assert again.at.images == 72 and model._skip == []


def test_a_damaged_snapshot_is_named_and_the_one_before_is_used(again, whole, caplog):
    newest = list_snapshots(again.snapshots)[0]
    path = newest / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert again.run(resume="auto") == whole and again.at.seen == 16
    assert f"the snapshot {newest} is not good and left out: {path} cannot be read" in caplog.text


def test_without_a_good_snapshot_it_starts_from_the_beginning(again, whole, caplog):
    caplog.set_level(logging.INFO, "ants_lightning")
    for folder in list_snapshots(again.snapshots):
        (folder / "rank0.json").write_text("{}")
    with pytest.raises(ValueError, match="no good snapshot in"):
        again.run(resume=str(again.snapshots))
    shutil.rmtree(again.folder / "spaces", ignore_errors=True)
    (again.folder / "mllm.jsonl").unlink()
    assert again.run(resume="auto") == whole and again.at.seen == 18
    assert "the run starts from the beginning" in caplog.text


def test_a_folder_of_a_snapshot(again, whole):
    """Of another run too: its snapshots are read and left alone."""
    older, elsewhere = again.snapshots / "000002", Job(again.folder.with_name("elsewhere"))
    shutil.copytree(again.folder, elsewhere.folder)
    shutil.rmtree(elsewhere.snapshots)
    assert elsewhere.run(resume=str(older)) == whole and elsewhere.at.seen == 16
    assert again.serials() == [3, 2]
    with pytest.raises(ValueError, match="no good snapshot in 'no/such'"):
        again.run(resume="no/such")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mining": {"gamma": 0.8}}, ["memory.mining.gamma was 0.9, now 0.8"]),
        (
            {"model": {"negatives": {"keep": 0.5}, "prompts": {"id": "a {}"}}},
            [
                "model.negatives.keep was 0.7, now 0.5",
                "model.prompts.id was 'The nice {}.', now 'a {}'",
                "labels was '",
            ],
        ),
        ({"model": {"negatives": {"nouns": demo.WORDS["nouns"][::-1]}}}, ["words was '"]),
        (
            {"model": {"threshold": 0.5}},
            ["threshold.setting was None, now 0.5", "threshold.at the start was None, now 0.5"],
        ),
        (
            {"data": {"n_ood": 8}},
            ["streams.lookalikes.ood_share was 0.5, now 0.4", "streams.scenes.size was 24, now 20"],
        ),
    ],
    ids=["memory", "model", "words", "threshold", "data"],
)
def test_another_configuration_is_refused_with_each_difference(again, changes, named):
    if "model" in changes:
        changes = {"model": again.make_model(**changes["model"])}
    with pytest.raises(ValueError, match="000003 is of another configuration: ") as error:
        again.run(resume="auto", **changes)
    assert all(text in str(error.value) for text in named), str(error.value)
    assert again.serials() == [3, 2] and again.at.seen == 0


def test_another_number_of_ranks_or_format_is_refused(again):
    folder = list_snapshots(again.snapshots)[0]
    about, tensors = read_share(folder, 0)
    about["state"] = unpack(about["state"], tensors, CPU)
    write_share(folder, 0, {**about, "format": 0}, about["state"])
    with pytest.raises(ValueError, match=r"configuration: snapshot\.format was 0, now 1$"):
        again.run(resume="auto")
    write_share(folder, 0, {**about, "world_size": 2}, about["state"])
    with pytest.raises(ValueError, match=r"trainer\.world_size was 2, now 1"):
        again.run(resume="auto")


def test_weights_are_part_of_the_configuration(again):
    model = again.make_model()
    for tower in (model.clip.visual, model.clip):
        next(tower.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match=r"towers\.image_tower was '.*towers\.text_tower was '"):
        again.run(resume="auto", model=model)


def test_state_that_cannot_be_kept_costs_the_snapshots_not_the_run(job, whole, caplog, monkeypatch):
    monkeypatch.setattr(At, "state", lambda self: {"bad": (1,)})
    assert job.run() == whole and job.callback.n_failed == 9
    assert caplog.text.count("a snapshot could not be written") == 1
    assert (
        "state.callbacks.At 0.bad cannot be kept: tuple" in caplog.text
        and "9 snapshots could not be written" in caplog.text
    )


@pytest.fixture
def small_disk(job):
    """A disk of 8 MB for the snapshots."""
    job.snapshots.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(job.snapshots)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield job.snapshots
    subprocess.run(["umount", str(job.snapshots)], check=True)


def test_a_full_disk_costs_the_snapshots_not_the_run(job, whole, small_disk, caplog):
    seen = []

    def fill():
        seen.append(job.serials())
        try:
            with (small_disk / "ballast").open("wb") as file:
                while file.write(bytes(4096)):
                    file.flush()
        except OSError as error:
            seen.append(error.errno)

    class Look(At):
        def on_test_end(self, trainer, pl_module):
            seen.append(job.serials())
            seen.append(sorted(path.name for path in small_disk.iterdir()))
            for serial in seen[-2]:
                assert read_share(small_disk / f"{serial:06d}", 0)[0]["serial"] == serial

    assert job.run(Look(7, fill)) == whole
    assert seen == [[4, 3], 28, [4, 3], ["000003", "000004", "ballast"]]
    assert job.callback.n_failed == 5 and caplog.text.count("a snapshot could not be written") == 1
    assert "No space left on device" in caplog.text


def test_a_file_size_limit_costs_the_snapshots_not_the_run(job, whole):
    """In a process of its own: the limit holds for all files."""
    child = os.fork()
    if not child:
        try:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # noqa: E731
            job.run(At(9, limit), every=4)
        except OSError:
            os._exit(2)  # of results.json
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert job.serials() == [3, 2] and job.position() == [6, 2]
    assert job.run(resume="auto") == whole
