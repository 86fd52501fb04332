"""Workers that are killed while a loader is at work."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
from loading_parts import Numbers, dealt, lists
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    SequentialSampler,
)
from torch.utils.data._utils import signal_handling

from ants_lightning.data import stream_loader
from ants_lightning.data.loading import make_exact
from ants_lightning.data.stream_loader import MOST_RESTARTS


@pytest.fixture(params=["torch's handler", "no handler"], autouse=True)
def handler(request, monkeypatch):
    """With torch's SIGCHLD handler and without, as a trainer leaves it that ran before in this process."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", request.param == "no handler")
    yield request.param
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_killed_worker_costs_no_image(tmp_path, caplog, shuffle):
    data = Numbers(60, tmp_path, deadly=(0, 7, 30, 59))
    loader = make_exact(
        DataLoader(data, 4, num_workers=2, shuffle=shuffle, generator=torch.Generator().manual_seed(5)), 1, 0
    )
    found = lists(loader)
    if shuffle:
        expected = torch.randperm(60, generator=torch.Generator().manual_seed(5)).split(4)
        assert found == [batch.tolist() for batch in expected]
    else:
        assert found == dealt(range(60), 1, 0, 4)
    said = [record.message for record in caplog.records if "restart" in record.message]
    assert len(said) == loader.restarts and 1 <= loader.restarts <= 4  # two workers may die at once
    for i, message in enumerate(said):
        assert message.startswith("DataLoader worker (pid") and f"restart {i + 1} of this loader" in message


def test_a_worker_killed_while_a_step_runs_does_not_end_the_step(caplog, handler):
    loader = make_exact(DataLoader(Numbers(200), 4, num_workers=2), 2, 1, skip=1)
    found = []
    for k, batch in enumerate(loader):
        if k in (3, 4, 11):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(0.2)  # the news come here
        found.append(batch)
    assert lists(found) == [None, *dealt(range(200), 2, 1, 4)[1:]]
    assert (
        loader.restarts == 3
        and "going" not in caplog.text
        and "Loading goes on at batch 4 (restart 1" in caplog.text
    )
    after = signal.getsignal(signal.SIGCHLD)
    assert (after is signal.SIG_DFL) == (handler == "no handler")


class Deadly(BatchSampler):
    """Kills a worker in the middle of its work, and waits until the news are here."""

    def __iter__(self):
        for k, batch in enumerate(super().__iter__()):
            if k == 6:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(0.2)
            yield batch


def test_a_worker_killed_while_the_sampler_is_asked_does_not_end_the_sampler():
    loader = make_exact(
        DataLoader(Numbers(60), batch_sampler=Deadly(SequentialSampler(range(60)), 4, False), num_workers=2),
        1,
        0,
    )
    assert lists(loader) == dealt(range(60), 1, 0, 4) and loader.restarts == 1


def test_workers_that_are_killed_again_and_again_end_the_run(tmp_path, caplog):
    loader = make_exact(
        DataLoader(Numbers(12, tmp_path, deadly=(6,), again=True), 4, num_workers=1), 1, 0, skip=1
    )
    iterator = iter(loader)
    assert next(iterator) is None
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        next(iterator)
    assert (
        loader.restarts == MOST_RESTARTS and caplog.text.count("Loading goes on at batch 1 ") == MOST_RESTARTS
    )


class Locking(Numbers):
    """A worker takes the lock without which torch cannot shut down the others, and keeps it."""

    def __getitem__(self, i):
        if i in self.deadly and not (self.folder / "pid").exists():
            frame = sys._getframe()
            while "done_event" not in frame.f_locals:
                frame = frame.f_back
            with frame.f_locals["done_event"]._cond:
                (self.folder / "new").write_text(str(os.getpid()))
                (self.folder / "new").rename(self.folder / "pid")
                time.sleep(100)
        return i


def test_a_worker_killed_with_a_lock_in_its_hands_does_not_hold_up_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_loader, "SHUTDOWN_S", 1)
    before, found = set(multiprocessing.active_children()), []
    loader = make_exact(DataLoader(Locking(40, tmp_path, deadly=(9,)), 4, num_workers=2), 1, 0)
    for k, batch in enumerate(loader):
        found.append(batch)
        if k == 0:
            while not (tmp_path / "pid").exists():
                time.sleep(0.01)
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            time.sleep(0.2)
    assert lists(found) == dealt(range(40), 1, 0, 4) and loader.restarts == 1
    assert set(multiprocessing.active_children()) <= before


class Missing(Numbers):
    def __getitem__(self, i):
        raise FileNotFoundError(f"image {i}")


def test_an_error_in_the_data_set_is_no_killed_worker():
    loader = make_exact(DataLoader(Missing(4), 2, num_workers=1), 1, 0)
    with pytest.raises(FileNotFoundError, match="image 0"):
        lists(loader)
    assert loader.restarts == 0
