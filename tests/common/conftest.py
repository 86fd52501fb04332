"""Fixtures of this folder."""

import pytest

from ants_lightning.common.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim("a run")
    yield folder
    folder.release("a run")
