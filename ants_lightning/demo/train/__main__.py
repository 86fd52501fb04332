"""Train the models of the demo: `python -m ants_lightning.demo.train --out <folder>`.

The detector's CLIP; the CLIP that lends its image tower to the LLaVA, its eyes; and the LLaVA. Two processes
at a time. With `--only` some of the parts. Leaves a folder for each part, and a JSON file of what the model
card tells.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ants_lightning.demo.train.parts import IMAGES, ROUNDS, begin, measure, train_stage


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m ants_lightning.demo.train", description="Train the demo's models."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo-train"))
    parser.add_argument("--only", choices=list(IMAGES), nargs="*", default=list(IMAGES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, default=2, help="shared by the parts that are trained side by side"
    )
    args = parser.parse_args()
    cards: dict[str, Any] = {part: {"stages": []} for part in args.only}
    for together in ROUNDS:
        jobs = [(part, stage) for part, stage in together if part in args.only]
        workers = max(1, len(jobs))
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), begin, (max(1, args.threads // workers),)
        ) as pool:
            trained = [
                pool.submit(train_stage, part, stage, args.out, args.scale, args.device)
                for part, stage in jobs
            ]
            for (part, stage), done in zip(jobs, trained, strict=True):
                cards[part]["stages"].append(done.result())
                if stage == len(IMAGES[part]) - 1:
                    cards[part].update(pool.submit(measure, part, args.out, args.scale).result())
                    (args.out / f"{part}.json").write_text(
                        json.dumps(cards[part], indent=1) + "\n", encoding="utf-8"
                    )


if __name__ == "__main__":
    main()
