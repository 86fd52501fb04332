"""Runs that are ended by a signal leave a snapshot."""

import os
import signal
import time

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException
from snapshot_parts import At, Namer

from ants_lightning.run import snapshot_files as files


def test_keyboard_interrupt(job, whole):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    with pytest.raises(SystemExit) as end:
        job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has it ignored from here on
    assert end.value.code == 1 and job.position() == [6, 2]
    assert job.run(resume="auto") == whole


def test_sigterm_ends_the_run_at_once_and_the_batch_is_done_again(job, whole, caplog):
    told, before = [], signal.signal(signal.SIGTERM, lambda *_: told.append("the user's handler"))
    try:
        with pytest.raises(SIGTERMException) as end:
            job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)), every=1000)
        assert end.value.code == 143 and job.position() == [6, 2] and told == ["the user's handler"]
        assert "SIGTERM: the run ends after [6, 2] batches" in caplog.text
        assert job.run(resume="auto") == whole and job.at.seen == 10
        for times in (2, 3):  # the user's handler is back
            os.kill(os.getpid(), signal.SIGTERM)
            assert len(told) == times
    finally:
        signal.signal(signal.SIGTERM, before)


class Terminated(Namer):
    """Gets SIGTERM at the n-th call of a kind, and would then hang."""

    def __init__(self, kind, n):
        self.kind, self.left = kind, n

    def tick(self, kind):
        self.left -= kind == self.kind
        if kind == self.kind and self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(100)

    def setup(self, device):
        self.tick("setup")

    def describe(self, images, avoid):
        self.tick("describe")
        return super().describe(images, avoid)

    def similar_classes(self, names, count=5, images=None):
        self.tick("similar")
        return super().similar_classes(names, count, images)


@pytest.mark.parametrize("last", [False, True], ids=["before the memory", "after it"])
@pytest.mark.parametrize(
    ("kind", "n", "position"),
    [
        ("setup", 1, None),
        ("describe", 1, None),
        ("describe", 2, [1]),
        ("similar", 3, [3]),
        ("describe", 6, [6, 3]),
    ],
)
def test_sigterm_ends_the_run_while_the_mllm_is_at_work(job, whole, kind, n, position, last):
    """The first description and the first names are asked for before the stream."""
    start = time.monotonic()
    with pytest.raises(SIGTERMException) as end:
        job.run(mllm=Terminated(kind, n), every=1000, last=last)
    assert time.monotonic() - start < 60 and end.value.code == 143
    assert (job.position() if position else job.serials() or None) == position
    assert job.run(resume="auto", last=last) == whole
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_sigterm_does_no_harm(job, whole, monkeypatch):
    """Here it comes while the first has a snapshot written."""
    write = files.write_share

    def write_late(*args):
        if job.at.seen == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*args)

    monkeypatch.setattr(files, "write_share", write_late)
    with pytest.raises(SIGTERMException):
        job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)), every=1000)
    assert job.position() == [6, 2] and job.run(resume="auto") == whole


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_where_no_exception_gets_out_of_ends_the_run_at_the_next_batch(job, whole):
    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        job.run(At(9, lambda: Dying() and None), every=1000)
    assert job.position() == [6, 3] and job.run(resume="auto") == whole and job.at.seen == 9


def test_sigterm_while_batches_are_skipped(again, whole):
    early = At()
    early.on_test_epoch_start = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        again.run(early, resume="auto")
    assert again.position() == [4] and again.serials() == [3, 2] and again.at.seen == 0
    assert again.run(resume="auto") == whole
