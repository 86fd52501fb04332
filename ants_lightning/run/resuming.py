"""What a run that resumes needs: the newest good snapshot, and the texts that were encoded meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ants_lightning.ants import ANTS
from ants_lightning.distributed import gather_json
from ants_lightning.run import snapshot_files as files

logger = logging.getLogger(__name__)

Found = tuple[dict[str, Any], dict[str, Tensor]]  # what a rank's files of a snapshot hold


def find_snapshot(resume: str, root: Path, trainer: L.Trainer) -> tuple[Found | None, Path | None]:
    """Read the newest snapshot that is good on every rank; all ranks call it at once.

    Args:
        resume: `auto` for those below `root`; or the folder of a snapshot, or a folder with several.
        root: the folder `snapshots` of the run.
        trainer: of the run.

    Returns:
        What it holds for this rank, and its folder; None and None for `auto` without a good snapshot.

    Raises:
        ValueError: for a snapshot of another number of ranks, and where a folder has no good snapshot.
    """
    given = root if resume == "auto" else Path(resume).expanduser()
    single = (given / "rank0.json").is_file()
    names = gather_json([] if single else [path.name for path in files.list_snapshots(given)])[0]
    for folder in [given] if single else [given / name for name in names]:
        found, world, bad = None, 0, ""
        try:
            world = files.read_about(folder, 0)["world_size"]
            if world == trainer.world_size:
                found = files.read_share(folder, trainer.global_rank)
        except ValueError as error:
            bad = str(error)
        reasons = [why for why in gather_json(bad) if why]
        if reasons:
            logger.warning("the snapshot %s is not good and left out: %s", folder, "; ".join(reasons))
            continue
        if found is None:
            differs = f"trainer.world_size was {world}, now {trainer.world_size}"
            raise ValueError(f"{folder} is of another configuration: {differs}")
        logger.info("resuming from %s, after %s batches", folder, found[0]["position"])
        return found, folder
    if resume != "auto":
        raise ValueError(f"resume: no good snapshot in {str(given)!r}")
    logger.info("no snapshot in %s: the run starts from the beginning", given)
    return None, None


def new_texts(model: ANTS, but: frozenset[str]) -> dict[str, Any]:
    """The texts that were encoded since the run began, with their features."""
    texts = [text for text in model.encoder.texts if text not in but]
    return {"texts": texts, "features": model.encoder(texts).cpu() if texts else torch.empty(0)}
