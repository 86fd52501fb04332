"""The configuration of a test run: all that its results depend on, and the differences between two."""

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import lightning as L

from ants_lightning.adapt.memory import NegativeMemory
from ants_lightning.ants import ANTS
from ants_lightning.common.hashes import canonical, digest
from ants_lightning.data.batches import dataset_of, stream_loaders, stream_of
from ants_lightning.data.columns import size_of
from ants_lightning.data.features import tower_identity

logger = logging.getLogger(__name__)

_SHOWN = 60  # characters of a value


def configuration_of(trainer: L.Trainer, model: ANTS) -> dict[str, Any]:
    """All that the results of a run that has started depend on, as plain JSON.

    That is settings, names, words, weights, MLLM, precision, ranks and streams; words and weights as hashes.
    """
    memory = memory_of(trainer)
    settings = settings_of(model, memory)
    settings["model"].pop("text_cache", None)  # where features are kept changes none of them
    mllm: Any = memory.guard.mllm if memory else None
    start = model.spaces.start
    towers = tower_identity(model.clip, model.preprocess, trainer)
    towers["preprocess"] = re.sub(r" at 0x[0-9a-f]+", "", towers["preprocess"])
    whole = {
        **settings,
        "versions": {name: version(name) for name in ("ants-lightning", "torch", "open_clip_torch")},
        "class_names": list(model.class_names),
        "words": _hash([model.vocabulary.nouns, model.vocabulary.adjectives]),
        "labels": _hash(model.spaces.neglabel.labels),
        "start": _hash([start.ens.labels, start.vsnl.labels, start.lambda_, start.answers])
        if start
        else None,
        "mllm": mllm.identity() if hasattr(mllm, "identity") else type(mllm).__name__,
        "threshold": {"setting": model.hparams["threshold"], "at the start": model.threshold},
        "towers": {**towers, "text_tower": model.encoder.fingerprint},
        "trainer": {"world_size": trainer.world_size, "device": model.device.type},
        "callbacks": sorted(stateful(trainer)),
        "streams": dict(_streams(trainer, model)),
    }
    return json.loads(canonical(whole))


def settings_of(model: ANTS, memory: NegativeMemory | None) -> dict[str, Any]:
    """All plain settings of a run that has started, by part, and its MLLM.

    Long things (names, words, weights) stand as hashes.
    """
    own = {**model.hparams, "class_names": model.class_names}
    words = {"nouns": model.vocabulary.nouns, "adjectives": model.vocabulary.adjectives}
    start = model.spaces.start
    taken = [
        *model.spaces.neglabel.labels,
        *([start.ens.labels, start.vsnl.labels, start.lambda_] if start else []),
    ]
    negatives = {**own["negatives"]}
    negatives |= {kind: found for kind, found in words.items() if negatives[kind] != "wordnet"}
    negatives |= {"bank": f"{negatives['bank']}: {_told(taken)}"} if negatives["bank"] else {}
    own["negatives"] = {name: _plain(value) for name, value in negatives.items()}
    own |= {"spaces": f"{own['spaces']}: {_told(taken)}"} if own["spaces"] else {}
    towers = tower_identity(model.clip, model.preprocess, model.trainer)
    own["weights"] = f"sha256 {_short_hash([towers['image_tower'], model.encoder.fingerprint])}"
    own["precision"] = towers["precision"]
    parts: dict[str, Any] = {"model": own}
    if memory:
        parts |= {"memory": memory.settings.asdict(), "mllm": _mllm_of(memory)}
    parts |= model.baselines.settings
    return {
        part: {name: _plain(value) for name, value in of.items() if _is_plain(value)}
        for part, of in parts.items()
    }


def _mllm_of(memory: NegativeMemory) -> dict[str, Any]:
    mllm: Any = memory.guard.mllm
    if mllm is None:
        return {}
    try:
        identity = json.loads(json.dumps(mllm.identity() if hasattr(mllm, "identity") else {}, default=str))
    except Exception as error:  # an MLLM of the user's; the results are not lost with it
        logger.warning(
            "what the answers depend on is not in the results: %s: %s", type(error).__name__, error
        )
        identity = {}
    return {"class": type(mllm).__name__, **identity}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | tuple | dict | None)


def _plain(value: Any) -> Any:
    return _told(value) if isinstance(value, list | tuple) else value


def _short_hash(values: Sequence[Any]) -> str:
    return _hash(list(values))[:8]


def _told(values: Sequence[Any]) -> str:
    """How many there are, and which: two lists of one length differ in the hash."""
    return f"{len(values)} (sha256 {_short_hash(values)})"


def memory_of(trainer: L.Trainer) -> NegativeMemory | None:
    """The callback that adapts."""
    return next((one for one in trainer.callbacks if isinstance(one, NegativeMemory)), None)  # type: ignore[attr-defined]


def stateful(trainer: L.Trainer) -> dict[str, Any]:
    """The callbacks with `state()` and `restore(trainer, pl_module, state)`, by class name and number."""
    found = dict[str, Any]()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "state") and hasattr(callback, "restore"):
            name = type(callback).__name__
            found[f"{name} {sum(key.startswith(f'{name} ') for key in found)}"] = callback
    return found


def _streams(trainer: L.Trainer, model: ANTS) -> Iterator[tuple[str, Any]]:
    for (name, loader), batches in zip(
        stream_loaders(trainer).items(), trainer.num_test_batches, strict=True
    ):
        stream, dataset = stream_of(loader), dataset_of(loader)
        about = {"size": size_of(dataset)} if stream is None else stream.description()
        kind = type(loader if dataset is None else dataset).__name__
        about = {
            "data": kind,
            **about,
            "group": model.evaluation.groups[name],
            "batch_size": getattr(loader, "batch_size", None),
        }
        yield name, {**about, "batches": batches if math.isfinite(batches) else None}


def _hash(value: Any) -> str:
    return digest(canonical(value))


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """What differs between two values of plain JSON: `memory.mining.gamma was 0.9, now 0.8`."""
    if isinstance(then, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*then, *now]):
            there = f"{path}.{key}" if path else key
            if key not in then or key not in now:
                found.append(f"{there} was {_show(then, key)}, now {_show(now, key)}")
            else:
                found += differences(then[key], now[key], there)
        return found
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [
            line
            for i, pair in enumerate(zip(then, now, strict=True))
            for line in differences(*pair, f"{path}[{i}]")
        ][:3]
    return [] if canonical(then) == canonical(now) else [f"{path} was {_short(then)}, now {_short(now)}"]


def _show(of: dict[str, Any], key: str) -> str:
    return _short(of[key]) if key in of else "absent"


def _short(value: Any) -> str:
    text = f"a list of {len(value)}" if isinstance(value, list) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
