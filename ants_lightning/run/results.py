"""`results.json` on disk: written whole, never over the results of another run, and read again."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from ants_lightning.common.run_folder import RunFolder
from ants_lightning.common.text import one_line

logger = logging.getLogger(__name__)

RESULTS = "results.json"
METRICS = {
    "auroc": "AUROC",
    "fpr95": "FPR95",
    "fpr95_openood": "FPR95 of OpenOOD",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
}


def write_results(folder: RunFolder, results: dict[str, Any]) -> list[str]:
    """Write `results.json`; what there is to say of it, line by line. OSError where it cannot be written.

    Results of an earlier run are replaced where that run had the same settings and streams; others are kept,
    as `results.<n>.json`.
    """
    path, told = folder.path / RESULTS, list[str]()
    new = folder.path / f".results.{uuid4().hex}.part"
    try:
        new.write_bytes(as_json(results))  # before anything is moved: the disk may be full
        if (
            path.exists()
            and folder.is_ours(RESULTS)
            and _what_ran(json.loads(path.read_bytes())) != _what_ran(results)
        ):
            older = next(name for n in range(1, 10**9) if folder.is_free(name := f"results.{n}.json"))
            folder.move(RESULTS, older)
            told.append(f"results of an earlier run, of other settings or streams: {folder.path / older}")
        folder.put(new, RESULTS)
    finally:
        new.unlink(missing_ok=True)
    return [*told, f"results: {path}"]


def rescue_results(folder: RunFolder, results: dict[str, Any], error: OSError) -> str:
    """Keep results in the folder of temporary files if need be; returns what to tell."""
    failed = f"{folder.path / RESULTS} could not be written: {error}"
    try:
        path = Path(tempfile.mkdtemp(prefix="ants_lightning-")) / RESULTS
        path.write_bytes(as_json(results))
    except OSError as again:
        return f"{failed}. The results are in no file ({again}): keep what is shown"
    return f"{failed}. The results are in {path}"


def as_json(results: dict[str, Any]) -> bytes:
    """The content of the file, in ASCII."""
    return (json.dumps(results, indent=2) + "\n").encode()


def _what_ran(results: dict[str, Any]) -> dict[str, Any]:
    """What results are of, as plain JSON: equal for two runs of which the second may replace the first."""
    about = {name: results.get(name) for name in ("settings", "model", "seed", "benchmark", "limited")}
    sizes = ("group", "n_id", "n_ood", "stream")
    streams = {name: [of.get(size) for size in sizes] for name, of in results["streams"].items()}
    return json.loads(json.dumps({**about, "streams": streams}))


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The content of `results.json` files, or of those in run folders, each with its `path`.

    What else `runs/*` may hold is passed over with a warning: a folder without a results.json, a file of
    another name without results. A ValueError names the path that is missing, all paths where none has
    results, and the `results.json` that is unreadable, not JSON, or not of the form that `build_results`
    writes.
    """
    found, passed = list[dict[str, Any]](), list[str]()
    for path in map(Path, paths):
        if not os.path.lexists(path):
            raise ValueError(f"no such file: {path}")
        try:
            found.append({**_read(path), "path": str(path)})
        except _NoResults as error:
            passed.append(one_line(str(error)))
    if not found:
        raise ValueError(f"no results: {'; '.join(passed) or 'name at least one results.json or run folder'}")
    for why in passed:
        logger.warning("passed over: %s", why)
    return found


class _NoResults(Exception):
    """A path that leads to no run."""


def _read(path: Path) -> dict[str, Any]:
    """The results of a file or run folder; `_NoResults` says why there are none."""
    file = path / "results.json" if path.is_dir() else path
    try:
        if not file.is_file():
            raise _NoResults(f"{path} has no results.json" if path.is_dir() else f"{path} is no file")
        results = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise (ValueError if file.name == "results.json" else _NoResults)(
            f"{file} is not JSON: {error}"
        ) from error
    if file.name != "results.json" and not (isinstance(results, dict) and "streams" in results):
        raise _NoResults(f"{file} is no results.json: it has no `streams`")
    _check(results, str(file))
    return results


def _check(results: Any, file: str) -> None:
    if not isinstance(results, dict) or not isinstance(results.get("streams"), dict):
        raise ValueError(f"{file} is no results.json: it has no `streams`")
    if not results["streams"]:
        raise ValueError(f"{file} has no streams: nothing was measured")
    for key, kind in (("benchmark", str), ("model", dict), ("seed", int), ("settings", dict)):
        if not isinstance(results.get(key), kind | None):
            raise ValueError(f"{file}: {key} is {results[key]!r}, not of type {kind.__name__}")
    for part, of in (results.get("settings") or {}).items():
        if not isinstance(of, dict):
            raise ValueError(f"{file}: settings of {part!r} are {of!r}")
    for name, stream in results["streams"].items():
        if not isinstance(stream, dict) or not isinstance(stream.get("group"), str):
            raise ValueError(f"{file}: stream {name!r} has no group")
        if not isinstance(stream.get("sets"), dict | None):
            raise ValueError(f"{file}: sets of stream {name!r} are {stream['sets']!r}")
        _check_scores(stream, f"{file}: stream {name!r}")
        for part, of in (stream.get("sets") or {}).items():
            _check_scores(of, f"{file}: set {part!r} of stream {name!r}")


def _check_scores(part: Any, where: str) -> None:
    scores = part.get("scores") if isinstance(part, dict) else None
    if not isinstance(scores, dict) or not scores:
        raise ValueError(f"{where} has no scores")
    for score, values in scores.items():
        for metric in METRICS:
            value = values.get(metric) if isinstance(values, dict) else None
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{where}: {metric} of score {score!r} is {value!r}")
