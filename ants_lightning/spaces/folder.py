"""Saved spaces: a folder to keep, read, start a run from, or use frozen on a machine without an MLLM."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.word_files import as_lines, read_text
from ants_lightning.common.files import swap_folder
from ants_lightning.common.settings import is_share, plain_path
from ants_lightning.common.text import one_line
from ants_lightning.spaces.text_space import TextSpace, read_labels
from ants_lightning.spaces.text_spaces import Start, TextSpaces

_SETTINGS = ("id_prompt", "temperature", "num_groups", "vsnl_groups")  # of `settings_of`
_CONTENT = ("class_names", "lambda", "threshold", "answers", "ens_ranked", "settings")
_BANKS = ("labels", "ens", "vsnl")
FILES = (*(f"{bank}.{suffix}" for bank in _BANKS for suffix in ("txt", "safetensors")), "spaces.json")
_ABOVE_1 = math.nextafter(1.0, math.inf)  # `decide.threshold.recall_threshold` of scores that are all 1


def save_spaces(folder: Path | str, files: dict[str, bytes]) -> None:
    """Write the files of `files_of` all at once: if that fails, the folder is as before.

    They replace spaces saved earlier; other files stay. OSError where they cannot be written, or where a file
    of such a name is in a folder that holds no saved spaces.

    Args:
        folder: made where missing; `~` is the home folder.
        files: content by name.
    """
    folder = Path(plain_path(folder)).expanduser()
    theirs = [name for name in FILES if (folder / name).exists()]
    if theirs and not _holds_spaces(folder):
        raise FileExistsError(f"{folder / theirs[0]} is not of saved spaces and is left alone")
    swap_folder(folder, files, FILES)


def _holds_spaces(folder: Path) -> bool:
    try:
        content = json.loads((folder / "spaces.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(content) >= {*_CONTENT}


def files_of(
    spaces: TextSpaces,
    encoder: TextEncoder,
    id_prompt: str,
    threshold: float | None = None,
    answers: dict[str, list[str]] | None = None,
) -> dict[str, bytes]:
    """The files of saved spaces, content by name: label banks `labels`, `ens` and `vsnl`, and `spaces.json`.

    A space without texts has no files. `FILES` has all names that can occur.

    Args:
        spaces: of a prepared model (`ANTS.save_spaces` calls this).
        encoder: what made their features.
        id_prompt: the prompt of the ID classes.
        threshold: of the decision, for people to read; it is not restored.
        answers: the MLLM's similar names by class, for a run that starts from these spaces.
    """
    banks = {"labels": spaces.neglabel, "ens": spaces.ens, "vsnl": spaces.vsnl}
    files = dict[str, bytes]()
    for bank, space in banks.items():
        files |= space.bank(bank, encoder)
    content = {
        "class_names": spaces.class_names,
        "lambda": spaces.lambda_,
        "threshold": threshold,
        "answers": {name: _printable(labels) for name, labels in (answers or {}).items()},
        "ens_ranked": _ranked_lines(spaces),
        "settings": settings_of(spaces, id_prompt),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # A lone surrogate becomes its escape, as JSON has it.
    files["spaces.json"] = text.encode("utf-8", "backslashreplace")
    return files


def _printable(labels: list[str]) -> list[str]:
    """Labels as printable lines, without those of which nothing is left."""
    return [line for label in labels if (line := one_line(label))]


def _ranked_lines(spaces: TextSpaces) -> list[int] | None:
    """The ranking of ENS in lines of its label bank; None without a ranking."""
    if spaces.ens_ranked is None:
        return None
    line_of = {place: line for line, place in enumerate(as_lines(spaces.ens.labels).values())}
    return [line_of[place] for place in spaces.ens_ranked.tolist() if place in line_of] or None


def settings_of(spaces: TextSpaces, id_prompt: str) -> dict[str, Any]:
    """The settings that scores depend on beside the texts; saved spaces need the same ones."""
    groups = {"num_groups": spaces.neglabel.num_groups, "vsnl_groups": spaces.vsnl.num_groups}
    return {"id_prompt": id_prompt, "temperature": spaces.temperature, **groups}


def read_settings(folder: Path | str, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of `spaces.json`, after all checks of it and of its label banks that need no model.

    ValueError, with the file, where there is none, it is not what `save_spaces` writes, or a label bank
    cannot be read; and where class names or settings differ from those of this run.

    Args:
        folder: of `save_spaces`.
        class_names: of this run.
        settings: of this run, as of `settings_of`.
    """
    folder = Path(plain_path(folder))
    path = folder / "spaces.json"
    if not path.is_file():
        raise ValueError(f"no such spaces: {str(path)!r}")
    try:
        content = json.loads(read_text(path, "spaces"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no spaces.json: {error}") from error
    if wrong := next(_faults(content), ""):
        raise ValueError(f"{path}: {wrong}")
    sizes = dict.fromkeys(_BANKS, 0)
    for name in _BANKS:
        if name == "labels" or (folder / f"{name}.txt").is_file():
            sizes[name] = len(read_labels(folder, name))
    _check_ranked(content["ens_ranked"], sizes["ens"], path)
    then = content["class_names"]
    if then != class_names:
        other = sorted(set(then) ^ set(class_names))[:3] or "their order"
        classes = f"{len(then)} other classes than the {len(class_names)} of this run"
        raise ValueError(f"{path} is of {classes}; they differ in {other}")
    for name, value in content["settings"].items():
        if settings[name] != value:
            raise ValueError(f"{path}: {name} was {value!r}, now {settings[name]!r}")
    return content


def _faults(content: Any) -> Iterator[str]:
    """What is wrong with the content of `spaces.json`, in words."""
    if not isinstance(content, dict):
        yield f"an object expected, got {type(content).__name__}"
        return
    for name in _CONTENT:
        if name not in content:
            yield f"{name} is missing"
            return
    names, settings, threshold = content["class_names"], content["settings"], content["threshold"]
    answers, ranked = content["answers"], content["ens_ranked"]
    if not _is_texts(names) or not names:
        yield f"class_names must be a list of strings, got {names!r:.80}"
    if not is_share(content["lambda"]):
        yield f"lambda must be a number in [0, 1], got {content['lambda']!r:.80}"
    if threshold is not None and not (is_share(threshold) or threshold == _ABOVE_1):
        yield f"threshold must be a number in [0, 1] or null, got {threshold!r:.80}"
    if not isinstance(settings, dict) or set(settings) != set(_SETTINGS):
        yield f"settings must hold {', '.join(_SETTINGS)}, got {settings!r:.200}"
    else:
        for name, value in settings.items():
            if isinstance(value, bool | list | dict | None):
                yield f"{name} was {value!r:.80}"
    if not isinstance(answers, dict) or not all(_is_texts(labels) for labels in answers.values()):
        yield f"answers must be lists of strings by class name, got {answers!r:.80}"
    elif not set(answers) <= set(names):
        yield f"answers of {next(iter(set(answers) - set(names)))!r:.80}, which is no class"
    if ranked is not None and not (isinstance(ranked, list) and all(type(i) is int for i in ranked)):
        yield f"ens_ranked must be a list of places or null, got {ranked!r:.80}"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)


def _check_ranked(ranked: list[int] | None, size: int, path: Path) -> None:
    """Raise a ValueError unless the ranking names lines of the ENS bank, of this size, each once."""
    if ranked is None:
        return
    for i in ranked:
        if not 0 <= i < size:
            place = f"place {i} of {size} sentences"
            raise ValueError(f"{path}: ens_ranked names {place}; make it null after edits")
    if len(set(ranked)) != len(ranked) or not ranked:
        wanted = "must name each place once, and some, or be null"
        raise ValueError(f"{path}: ens_ranked {wanted}; got {ranked!r:.80}")


def load_spaces(folder: Path | str, spaces: TextSpaces, encoder: TextEncoder, id_prompt: str) -> None:
    """Take N_nl from saved spaces, and have every stream start from their ENS, VSNL and λ.

    Texts that people have edited, or that another text tower encoded, are encoded anew. ValueError as of
    `read_settings`.

    Args:
        folder: of `save_spaces`.
        spaces: of this run, with its classes; changed in place.
        encoder: for texts without features.
        id_prompt: the prompt of the ID classes.
    """
    folder = Path(plain_path(folder))
    content = read_settings(folder, spaces.class_names, settings_of(spaces, id_prompt))
    dim = spaces.id_text.shape[1]
    ens, vsnl = TextSpace(dim, spaces.ens.num_groups), TextSpace(dim, spaces.vsnl.num_groups)
    spaces.neglabel.load(folder, "labels", encoder)
    for name, space in (("ens", ens), ("vsnl", vsnl)):
        if (folder / f"{name}.txt").is_file():
            space.load(folder, name, encoder)
    ranked = content["ens_ranked"]
    places = None if ranked is None else torch.tensor(ranked)
    spaces.start_from(Start(ens, vsnl, float(content["lambda"]), places, content["answers"]))
