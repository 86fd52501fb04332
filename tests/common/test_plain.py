"""Settings as ordinary Python gives them: NumPy, pandas and torch, tuples, paths, `~`."""

import re
from collections import OrderedDict, UserDict
from enum import Enum
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
import torch
from plain_parts import NAMES

from ants_lightning.baselines import MaxLogit
from ants_lightning.common.settings import (
    check_flags,
    check_not_negative,
    check_positive,
    check_shares,
    check_whole,
    plain,
    plain_path,
)


class Kind(str, Enum):
    PAPER = "paper"


class Folder:
    def __fspath__(self):
        return "a/b"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array([1.5, 2]), [1.5, 2.0]),
        (np.array(NAMES), NAMES),
        (np.array(NAMES, dtype=object), NAMES),
        (np.array([["a"], ["b"]]), [["a"], ["b"]]),
        (pd.Series(NAMES, index=[7, 3]), NAMES),
        (pd.Index(NAMES), NAMES),
        (pd.Series(NAMES, dtype="category"), NAMES),
        (pd.Categorical(NAMES), NAMES),
        (torch.tensor(2), 2),
        (torch.tensor(True), True),
        (torch.tensor([0.5, 1]), [0.5, 1.0]),
        (tuple(NAMES), NAMES),
        ({"star": 0, "ring": 1}.keys(), NAMES),
        (range(2), [0, 1]),
        ((np.int8(1), ("a", Path("b"))), [1, ["a", "b"]]),
        ({"id_recall": np.float64(0.95)}, {"id_recall": 0.95}),
        (UserDict(a=np.int64(1)), {"a": 1}),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (Path("a/b.txt"), "a/b.txt"),
        (Folder(), "a/b"),
        (PurePosixPath("~/a"), "~/a"),
        (Kind.PAPER, "paper"),
        ("text", "text"),
        (None, None),
        (True, True),
        (0.5, 0.5),
        (b"x", b"x"),
    ],
)
def test_what_is_like_a_plain_value_becomes_one(given, expected):
    found = plain(given)
    assert found == expected and type(found) is type(expected) and plain(found) == found
    if isinstance(expected, list):
        assert [type(item) for item in found] == [type(item) for item in expected]


def test_anything_else_is_left_as_it_is():
    for thing in (object(), {1, 2}, iter("ab"), torch.nn.Linear(1, 1), print, np.random.default_rng(0)):
        assert plain(thing) is thing
    baselines = [MaxLogit()]
    assert plain(baselines)[0] is baselines[0]


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plain_path("~/a") == plain_path(Path("~/a")) == plain_path(np.str_("~/a")) == f"{tmp_path}/a"
    assert plain_path("~") == str(tmp_path) and plain_path("local-dir:~/a") == f"local-dir:{tmp_path}/a"
    assert (
        plain_path("hf-hub:a/~b") == "hf-hub:a/~b"
        and plain_path("a/~/b") == "a/~/b"
        and plain_path(None) is None
    )
    for name in ("~nobody-of-that-name/x", "local-dir:~nobody-of-that-name"):
        with pytest.raises(ValueError, match=f"no home folder for '{name}'"):
            plain_path(name)


@pytest.mark.parametrize("bad", [True, "1", None, [1], float("nan"), np.int64(1), -1])
def test_what_is_no_number_is_refused_by_name(bad):
    for check in (
        check_positive,
        check_not_negative,
        check_shares,
        lambda **settings: check_whole(1, **settings),
    ):
        with pytest.raises(ValueError, match=rf"^eta must .*{re.escape(repr(bad))}"):
            check(delta=1, eta=bad)
    if bad is not True:
        with pytest.raises(ValueError, match="adapt must be true or false"):
            check_flags(persist=False, adapt=bad)
    with pytest.raises(ValueError, match=r"n must be a whole number, got 2\.0"):
        check_whole(1, n=2.0)
