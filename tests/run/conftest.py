"""Fixtures of this folder."""

import shutil

import pytest
import torch
from snapshot_parts import Job


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a run that nothing interrupts."""
    torch.set_num_threads(1)
    return Job(tmp_path_factory.mktemp("whole")).run(every=1000)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that ended in the fifth batch of the first stream."""
    torch.set_num_threads(1)
    job = Job(tmp_path_factory.mktemp("interrupted") / "run")
    assert job.interrupt(5) == [4]
    return job


@pytest.fixture
def again(interrupted, tmp_path):
    """A copy of it."""
    shutil.copytree(interrupted.folder, tmp_path / "run")
    return Job(tmp_path / "run")
