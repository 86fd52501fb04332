"""Adapted spaces as an asset: a folder to keep, inspect, start from, or use frozen on a machine with no MLLM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ants_lightning.text_cache import write_atomically
from ants_lightning.text_space import TextSpace

if TYPE_CHECKING:
    from ants_lightning.detector import Detector

_SETTINGS = ("id_prompt", "temperature", "num_groups", "vsnl_groups")  # that the scores depend on, beside the texts


@dataclass(frozen=True)
class Spaces:
    """ENS, VSNL and λ as a stream left them."""

    ens: TextSpace
    vsnl: TextSpace
    weight: float  # λ
    ens_ranked: Tensor | None
    answers: dict[str, list[str]]  # similar names by class


def save_spaces(model: Detector, folder: Path | str, answers: dict[str, list[str]] | None = None) -> None:
    """Write the model's spaces: `labels`, `ens` and `vsnl`, each a label bank (`TextSpace.save`), and `spaces.json`.

    A space with no text has no files. OSError where they cannot be written.

    Args:
        model: prepared.
        folder: made where it isn't there.
        answers: the MLLM's similar names by class, for a run that starts from these spaces.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, space in (("labels", model.neglabel), ("ens", model.ens), ("vsnl", model.vsnl)):
        if len(space):
            space.save(folder, name, model.encoder)
        else:  # of an earlier run
            for suffix in ("txt", "safetensors"):
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    content = {
        "class_names": model.class_names, "lambda": model.weight, "threshold": model.decision.value, "answers": answers or {},
        "ens_ranked": None if model.ens_ranked is None else model.ens_ranked.tolist(),
        "settings": {name: model.hparams[name] for name in _SETTINGS},
    }  # fmt: skip
    write_atomically(folder / "spaces.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_settings(folder: Path | str, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """`spaces.json`; ValueError where there is none, or it was written with other class names or settings than these."""
    path = Path(folder) / "spaces.json"
    if not path.is_file():
        raise ValueError(f"no such spaces: {str(path)!r}")
    content = json.loads(path.read_text("utf-8"))
    then = content["class_names"]
    if then != class_names:
        other = sorted(set(then) ^ set(class_names))[:3] or "their order"
        raise ValueError(f"{path} is of {len(then)} other classes than the {len(class_names)} of this run; they differ in {other}")
    for name, value in content["settings"].items():
        if settings[name] != value:
            raise ValueError(f"{path}: {name} was {value!r}, now {settings[name]!r}")
    return content


def load_spaces(model: Detector, folder: Path | str) -> Spaces:
    """Read what `save_spaces` wrote; N_nl goes into the model. Edited texts, or those of another text tower, are encoded anew."""
    content = read_settings(folder, model.class_names, dict(model.hparams))
    dim = model.neglabel.features.shape[1]
    ens, vsnl = TextSpace(dim, model.ens.num_groups), TextSpace(dim, model.vsnl.num_groups)
    model.neglabel.load(folder, "labels", model.encoder)
    for name, space in (("ens", ens), ("vsnl", vsnl)):
        if (Path(folder) / f"{name}.txt").is_file():
            space.load(folder, name, model.encoder)
    ranked = content["ens_ranked"]
    if ranked is not None and max(ranked, default=-1) >= len(ens):
        raise ValueError(f"{folder}: ens_ranked names place {max(ranked)} of {len(ens)} sentences; make it null after edits")
    return Spaces(ens, vsnl, content["lambda"], None if ranked is None else torch.tensor(ranked), content["answers"])
