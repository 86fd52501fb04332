"""Fixtures of this folder."""

import shutil

import pytest
from feature_parts import QUIET, make_data, make_model

from ants_lightning.cli import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    Trainer(**QUIET).encode(make_model(), make_data(folder))
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "features")
    return tmp_path / "features"
