"""Adapted spaces as an asset: a folder to keep, inspect, start from, or use frozen on a machine with no MLLM."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ants_lightning.clip.word_files import as_lines, read_text
from ants_lightning.common.files import swap_folder
from ants_lightning.common.settings import is_number, plain_path
from ants_lightning.common.text import one_line
from ants_lightning.spaces.text_space import TextSpace, read_labels

if TYPE_CHECKING:
    from ants_lightning.detector import Detector

_SETTINGS = ("id_prompt", "temperature", "num_groups", "vsnl_groups")  # that the scores depend on, beside the texts
_CONTENT = ("class_names", "lambda", "threshold", "answers", "ens_ranked", "settings")
_BANKS = ("labels", "ens", "vsnl")
FILES = (*(f"{bank}.{suffix}" for bank in _BANKS for suffix in ("txt", "safetensors")), "spaces.json")
_ABOVE_1 = math.nextafter(1.0, math.inf)  # `decision.recall_threshold` of scores of 1


@dataclass(frozen=True)
class Spaces:
    """ENS, VSNL and λ as a stream left them."""

    ens: TextSpace
    vsnl: TextSpace
    weight: float  # λ
    ens_ranked: Tensor | None
    answers: dict[str, list[str]]  # similar names by class


def save_spaces(model: Detector, folder: Path | str, answers: dict[str, list[str]] | None = None) -> None:
    """Write the model's spaces, the files of `files_of`, all at once: a folder holds those of one model, or of the one before.

    Saved spaces that are there are replaced; other files stay. OSError where they cannot be written, or a file of such a name is in
    a folder that holds no saved spaces.

    Args:
        model: prepared.
        folder: made where it isn't there.
        answers: the MLLM's similar names by class, for a run that starts from these spaces.
    """
    folder = Path(plain_path(folder)).expanduser()
    theirs = [name for name in FILES if (folder / name).exists()]
    if theirs and not _holds_spaces(folder):
        raise FileExistsError(f"{folder / theirs[0]} is not of saved spaces and is left alone")
    swap_folder(folder, files_of(model, answers), FILES)


def _holds_spaces(folder: Path) -> bool:
    try:
        content = json.loads((folder / "spaces.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(content) >= {*_CONTENT}


def files_of(model: Detector, answers: dict[str, list[str]] | None = None) -> dict[str, bytes]:
    """The model's spaces as files, by name: `labels`, `ens` and `vsnl`, each a label bank (`TextSpace.save`), and `spaces.json`.

    A space with no text has no files. `FILES` are all names there are.
    """
    spaces = {"labels": model.neglabel, "ens": model.ens, "vsnl": model.vsnl}
    files = {name: content for bank, space in spaces.items() for name, content in space.bank(bank, model.encoder).items()}
    place_of = {place: i for i, place in enumerate(as_lines(model.ens.labels).values())}
    ranked = None if model.ens_ranked is None else [place_of[i] for i in model.ens_ranked.tolist() if i in place_of]
    told = {name: [line for label in labels if (line := one_line(label))] for name, labels in (answers or {}).items()}
    content = {
        "class_names": model.class_names, "lambda": model.weight, "threshold": model.decision.value, "answers": told,
        "ens_ranked": ranked or None, "settings": {name: model.hparams[name] for name in _SETTINGS},
    }  # fmt: skip
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return {**files, "spaces.json": text.encode("utf-8", "backslashreplace")}  # of a lone surrogate: its escape in JSON


def read_settings(folder: Path | str, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """`spaces.json`, with all that can be known before a run checked, and the texts beside it.

    ValueError, with the file, where there is none, it is not what `save_spaces` writes, or was written with other class names or
    settings than these; and for a label bank that cannot be read.
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
    sizes = {name: len(read_labels(folder, name)) for name in _BANKS if name == "labels" or (folder / f"{name}.txt").is_file()}
    _check_ranked(content["ens_ranked"], sizes.get("ens", 0), path)
    then = content["class_names"]
    if then != class_names:
        other = sorted(set(then) ^ set(class_names))[:3] or "their order"
        raise ValueError(f"{path} is of {len(then)} other classes than the {len(class_names)} of this run; they differ in {other}")
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
    names, settings, answers, ranked = (content[name] for name in ("class_names", "settings", "answers", "ens_ranked"))
    if not _is_texts(names) or not names:
        yield f"class_names must be a list of strings, got {names!r:.80}"
    if not is_number(content["lambda"]) or not 0 <= content["lambda"] <= 1:
        yield f"lambda must be a number in [0, 1], got {content['lambda']!r:.80}"
    if content["threshold"] is not None and not (is_number(content["threshold"]) and 0 <= content["threshold"] <= _ABOVE_1):
        yield f"threshold must be a number in [0, 1] or null, got {content['threshold']!r:.80}"
    if not isinstance(settings, dict) or set(settings) != set(_SETTINGS):
        yield f"settings must hold {', '.join(_SETTINGS)}, got {settings!r:.200}"
    else:
        yield from (f"{name} was {value!r:.80}" for name, value in settings.items() if isinstance(value, bool | list | dict | None))
    if not isinstance(answers, dict) or not all(_is_texts(labels) for labels in answers.values()):
        yield f"answers must be lists of strings by class name, got {answers!r:.80}"
    elif not set(answers) <= set(names):
        yield f"answers of {next(iter(set(answers) - set(names)))!r:.80}, which is no class"
    if ranked is not None and not (isinstance(ranked, list) and all(type(i) is int for i in ranked)):
        yield f"ens_ranked must be a list of places or null, got {ranked!r:.80}"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)


def _check_ranked(ranked: list[int] | None, size: int, path: Path) -> None:
    """The places are in the ENS queue, each once."""
    if ranked is None:
        return
    for i in ranked:
        if not 0 <= i < size:
            raise ValueError(f"{path}: ens_ranked names place {i} of {size} sentences; make it null after edits")
    if len(set(ranked)) != len(ranked) or not ranked:
        raise ValueError(f"{path}: ens_ranked must name each place once, and some, or be null; got {ranked!r:.80}")


def load_spaces(model: Detector, folder: Path | str) -> Spaces:
    """Read what `save_spaces` wrote; N_nl goes into the model. Edited texts, or those of another text tower, are encoded anew."""
    folder = Path(plain_path(folder))
    content = read_settings(folder, model.class_names, dict(model.hparams))
    dim = model.neglabel.features.shape[1]
    ens, vsnl = TextSpace(dim, model.ens.num_groups), TextSpace(dim, model.vsnl.num_groups)
    model.neglabel.load(folder, "labels", model.encoder)
    for name, space in (("ens", ens), ("vsnl", vsnl)):
        if (folder / f"{name}.txt").is_file():
            space.load(folder, name, model.encoder)
    ranked = content["ens_ranked"]
    return Spaces(ens, vsnl, float(content["lambda"]), None if ranked is None else torch.tensor(ranked), content["answers"])
