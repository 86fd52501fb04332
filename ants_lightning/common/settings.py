"""Settings as plain Python, and checks of them: each raises a ValueError that names the first bad setting."""

import math
import os
from collections.abc import Callable, KeysView, Mapping, Sequence, ValuesView
from typing import Any, TypeGuard

import numpy as np
import torch

_LOCAL = "local-dir:"  # open_clip's mark of a folder
_PACKAGE = "$ants_lightning/"  # the mark of a file of the package


def plain(value: Any) -> Any:
    """A setting as plain Python, which can be compared, logged, and written to YAML, JSON and checkpoints.

    Scalars of NumPy and torch become int, float, bool or str. Arrays, tensors, Series and Index of pandas,
    tuples and the keys or values of a dict become lists, and mappings become dicts, both with plain content.
    A path becomes a str. Anything else is left as it is.

    >>> from pathlib import PurePath
    >>> plain((np.int64(3), np.array(["star", "ring"]), torch.tensor(0.5), PurePath("words.txt")))
    [3, ['star', 'ring'], 0.5, 'words.txt']
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # an enum of strings gives its value
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    is_array = hasattr(value, "__array__") and hasattr(value, "tolist")
    if is_array or isinstance(value, torch.Tensor | np.ndarray):
        return _items(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return _items(value)


def _items(value: Any) -> Any:
    return [plain(item) for item in value] if isinstance(value, Sequence | KeysView | ValuesView) else value


def plain_path(value: Any) -> Any:
    """A setting that may name a file or folder, as by `plain`.

    A `~` at its start becomes the home folder, and `$ants_lightning/` the folder of the installed package.
    open_clip's `local-dir:` may stand before them.

    Raises:
        ValueError: where there is no such home, so that no folder named `~` is ever made.

    >>> from pathlib import PurePath
    >>> plain_path("~/words.txt") == plain_path(PurePath("~/words.txt")) == os.path.expanduser("~/words.txt")
    True
    """
    value = plain(value)
    if not isinstance(value, str):
        return value
    before = _LOCAL if value.startswith(_LOCAL) else ""
    path = os.path.expanduser(value.removeprefix(before))
    if path.startswith(_PACKAGE):
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        return before + os.path.join(package, path.removeprefix(_PACKAGE))
    if path.startswith("~"):
        here = before + os.path.join(".", path)
        raise ValueError(f"no home folder for {value!r}; what is here by that name is {here!r}")
    return before + path


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a plain value is a number; a bool is none, although Python counts it as one.

    >>> is_number(3), is_number(0.5), is_number(True), is_number("3")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_share(value: Any) -> TypeGuard[float]:
    """Whether a plain value is a number in [0, 1].

    >>> is_share(0.5), is_share(1.5), is_share("0.5")
    (True, False, False)
    """
    return is_number(value) and 0 <= value <= 1


def check_whole(least: int, **settings: Any) -> None:
    """Raise a ValueError unless each setting is a whole number of at least `least`."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_counts(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a whole number of at least 1."""
    check_whole(1, **settings)


def check_shares(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a number in [0, 1]."""
    _check("lie in [0, 1]", is_share, settings)


def check_positive_shares(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a number in (0, 1]."""
    _check("lie in (0, 1]", lambda value: 0 < value <= 1, settings)


def check_positive(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a positive, finite number."""
    _check("be positive", lambda value: 0 < value < math.inf, settings)


def check_not_negative(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a finite number of at least 0."""
    _check("be at least 0", lambda value: 0 <= value < math.inf, settings)


def check_cosines(**settings: Any) -> None:
    """Raise a ValueError unless each setting is a number in [-1, 1]."""
    _check("be a cosine, in [-1, 1]", lambda value: -1 <= value <= 1, settings)


def check_choice(known: Sequence[str], **settings: Any) -> None:
    """Raise a ValueError unless each setting is one of the known words."""
    for name, value in settings.items():
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_flags(**settings: Any) -> None:
    """Raise a ValueError unless each setting is True or False."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")


def _check(what: str, good: Callable[[float], bool], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if not is_number(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not good(value):
            raise ValueError(f"{name} must {what}, got {value}")
