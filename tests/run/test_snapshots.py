"""When snapshots are written, and what stays in their folder."""

import shutil

import lightning as L
import pytest
from snapshot_parts import At

from ants_lightning import Report, demo
from ants_lightning.run.snapshots import Snapshots


@pytest.mark.parametrize("name", ["every", "keep"])
def test_settings_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Snapshots(**{name: 0})


def test_a_snapshot_every_so_many_batches_and_none_after_a_good_end(job, whole):
    seen = []
    assert job.run(At(18, lambda: seen.append((job.serials(), job.position()))), every=4) == whole
    assert seen == [([5, 4], [6, 6, 4])]  # after 0, 4, 8, 12 and 16 batches
    assert not job.snapshots.exists() and job.callback.n_failed == 0


@pytest.mark.parametrize("last", [False, True], ids=["before the memory", "after it"])
@pytest.mark.parametrize(("n", "position"), [(2, [1]), (7, [6, 0]), (12, [6, 5]), (18, [6, 6, 5])])
def test_an_exception_is_gone_on_from_as_if_it_had_not_been(job, whole, n, position, last):
    assert job.interrupt(n, every=1000, last=last) == position  # the batch that failed is done again
    assert job.run(resume="auto", last=last) == whole
    assert job.at.seen == 18 - sum(position) and job.at.images == 72 and not job.snapshots.exists()


@pytest.mark.parametrize("keep_record", [True, False], ids=["of this run", "of none"])
def test_before_a_batch_is_done_there_is_the_snapshot_of_the_start(job, whole, keep_record):
    """Answers that the killed run recorded count as asked; without the record they are asked again."""
    assert job.interrupt(3, every=1000) == [2]
    shutil.rmtree(job.snapshots / "000002")
    if not keep_record:
        (job.folder / "mllm.jsonl").unlink()
    assert (job.position(), job.serials()) == ([0], [1])
    assert job.run(resume="auto") == whole and job.at.seen == 18


def test_files_of_others_stay_in_the_folder(job, whole):
    theirs = [
        job.snapshots / name
        for name in ("monday.jpg", "2024/03/photo.jpg", "7/rank0.json", ".partial-8/notes")
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (job.snapshots / "7" / "and more").touch()
    seen = []
    assert job.run(At(9, lambda: seen.extend(job.serials()))) == whole and seen == [2029, 2028]
    assert all(path.read_text() == "precious" for path in theirs) and not job.serials()


def test_a_file_in_the_place_of_the_folder_costs_the_snapshots(job, whole, caplog):
    job.folder.mkdir()
    job.snapshots.write_text("precious")
    assert job.run() == whole and job.snapshots.read_text() == "precious"
    assert job.callback.n_failed == 9 and caplog.text.count("a snapshot could not be written") == 1


def test_a_folder_that_was_there_stays_and_ours_goes(job, whole):
    job.snapshots.mkdir(parents=True)
    assert job.run() == whole and job.snapshots.is_dir()
    job.snapshots.rmdir()
    job.interrupt(3)
    job.run(resume="auto")
    assert job.at.seen == 16 and not job.snapshots.exists()


def test_fast_dev_run_writes_nothing_and_leaves_snapshots_alone(again, caplog):
    before = sorted(again.folder.rglob("*"))
    trainer = L.Trainer(
        accelerator="cpu",
        fast_dev_run=True,
        enable_progress_bar=False,
        default_root_dir=again.folder,
        callbacks=[Snapshots(every=1, resume="auto"), Report()],
    )
    trainer.test(
        again.make_model(), demo.DemoDataModule(seed=3, n_id=12, n_ood=12, batch_size=4), verbose=False
    )
    assert sorted(again.folder.rglob("*")) == before


def test_a_run_with_snapshots_of_an_earlier_one_counts_on(again, whole):
    assert again.serials() == [3, 2]  # after two batches and, as the fifth failed, after four
    (again.folder / "mllm.jsonl").unlink()
    assert again.interrupt(7, every=3) == [6, 0]
    assert again.serials() == [6, 5]
    assert again.run(resume="auto") == whole
