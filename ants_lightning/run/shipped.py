"""The configurations that come with the package, found by name from any folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ants_lightning

_PACKAGE = Path(ants_lightning.__file__).parent
_OPTIONS = ("--config", "-c", "--memory.mllm")  # take a name


def folder() -> Path:
    """The folder of the configurations: within the installed package, or at the top of a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> dict[str, Path]:
    """Files by name: `demo`, `method/official`, `mllm/vllm` and so on."""
    root = folder()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find(name: str) -> Path | None:
    """The shipped configuration of a name, which may lack its folder (`official`); None: there is none."""
    known = names()
    if name in known:
        return known[name]
    found = [path for whole, path in known.items() if whole.rpartition("/")[2] == name]
    return found[0] if len(found) == 1 else None


def with_paths(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the path of a shipped configuration in place of its name.

    Only the values of `--config`, `-c` and `--memory.mllm` are names. A file by that name goes first.

    Raises:
        ValueError: for a `--config` that is neither a file nor a shipped configuration.
    """
    found, option = list[str](), ""
    for word in words:
        start, equals, value = word.partition("=")
        if option:
            found.append(_path(option, word))
            option = ""
        elif equals and start in _OPTIONS:
            found.append(f"{start}={_path(start, value)}")
        else:
            found.append(word)
            option = word if word in _OPTIONS else ""
    return found


def _path(option: str, value: str) -> str:
    if Path(value).expanduser().is_file():
        return value
    shipped = find(value)
    if shipped:
        return str(shipped)
    is_name = "\n" not in value and ":" not in value and "{" not in value
    if option != "--memory.mllm" and is_name:
        raise ValueError(f"{option} {value}: no such file, and no shipped one of {', '.join(names())}")
    return value
