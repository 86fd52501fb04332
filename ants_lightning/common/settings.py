"""What ordinary Python gives as a setting, as plain Python; and the checks of numbers."""

import math
import os
from collections.abc import Callable, KeysView, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np
import torch

_LOCAL = "local-dir:"  # open_clip's mark of a folder


def plain(value: Any) -> Any:
    """A setting as plain Python, so that it can be compared, logged, and written to YAML, JSON and checkpoints.

    Scalars of NumPy and torch become int, float, bool or str; arrays, tensors, Series and Index of pandas, tuples and the keys or
    values of a dict become lists, mappings dicts, both with plain content; a path becomes a str. Anything else is left as it is.

    >>> from pathlib import PurePath
    >>> plain((np.int64(3), np.array(["star", "ring"]), torch.tensor(0.5), PurePath("words.txt")))
    [3, ['star', 'ring'], 0.5, 'words.txt']
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # of an enum of strings its value
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, torch.Tensor | np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "tolist")):
        return _items(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return _items(value)


def _items(value: Any) -> Any:
    return [plain(item) for item in value] if isinstance(value, Sequence | KeysView | ValuesView) else value


def plain_path(value: Any) -> Any:
    """A setting that may name a file or folder: `plain`, with `~` as the home folder, also after open_clip's `local-dir:`.

    ValueError where there is no such home: no folder named `~` ever comes into being.

    >>> from pathlib import PurePath
    >>> plain_path("~/words.txt") == plain_path(PurePath("~/words.txt")) == os.path.expanduser("~/words.txt")
    True
    """
    value = plain(value)
    if not isinstance(value, str):
        return value
    before = _LOCAL if value.startswith(_LOCAL) else ""
    path = os.path.expanduser(value.removeprefix(before))
    if path.startswith("~"):
        raise ValueError(f"no home folder for {value!r}; what is here by that name is {before + os.path.join('.', path)!r}")
    return before + path


def is_number(value: Any) -> bool:
    """Whether a plain value is a number; a bool, that counts as one in Python, is none here.

    >>> is_number(3), is_number(0.5), is_number(True), is_number("3")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(least: int, **settings: Any) -> None:
    """Refuse what is no whole number, or one below `least`; the error names the first."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_counts(**settings: Any) -> None:
    """Refuse what is no whole number of at least 1; the error names the first."""
    check_whole(1, **settings)


def check_shares(**settings: Any) -> None:
    """Refuse what is no number in [0, 1]; the error names the first."""
    _check("lie in [0, 1]", lambda value: 0 <= value <= 1, settings)


def check_positive(**settings: Any) -> None:
    """Refuse what is no positive, finite number; the error names the first."""
    _check("be positive", lambda value: 0 < value < math.inf, settings)


def check_not_negative(**settings: Any) -> None:
    """Refuse what is no finite number of at least 0; the error names the first."""
    _check("be at least 0", lambda value: 0 <= value < math.inf, settings)


def check_flags(**settings: Any) -> None:
    """Refuse what is neither True nor False; the error names the first."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")


def _check(what: str, good: Callable[[float], bool], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if not is_number(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not good(value):
            raise ValueError(f"{name} must {what}, got {value}")
