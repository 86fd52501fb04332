"""`results.json` on disk: written whole, never over the results of another run."""

import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from ants_lightning.common.run_folder import RunFolder

RESULTS = "results.json"


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
