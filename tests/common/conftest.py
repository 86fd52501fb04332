"""Fixtures of this folder."""

import pytest
from run_folder_parts import A_RUN

from ants_lightning.common.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim(A_RUN)
    yield folder
    folder.release(A_RUN)
