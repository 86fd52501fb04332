"""Train the models of the demo: `python -m ants_lightning.demo.train --out <folder>`.

Two processes side by side: the detector's CLIP; and the CLIP that lends its image tower to the LLaVA, then the LLaVA. With
`--only` some of the parts.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ants_lightning.demo.train.parts import IMAGES, train_parts


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m ants_lightning.demo.train", description="Train the demo's models.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-train"))
    parser.add_argument("--only", choices=list(IMAGES), nargs="*", default=list(IMAGES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    args = parser.parse_args()
    chains = [[part for part in chain if part in args.only] for chain in (["detector"], ["eyes", "llava"])]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(train_parts, chain, args.out, args.scale, args.device, args.threads) for chain in chains if chain]:
            done.result()


if __name__ == "__main__":
    main()
