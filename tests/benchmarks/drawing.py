"""How fast the demo world is drawn on one core: `python tests/benchmarks/drawing.py`; whole batches
against one image at a time.
"""

import statistics
import time

import torch

from ants_lightning.demo.world import THINGS, draw_images, sample_specs


def rate(batch, total, seed):
    g = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    for _ in range(total // batch):
        draw_images(sample_specs(batch, THINGS, g), g)
    return total // batch * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rate(64, 64, 0)  # the stencils are made once
    rates = {
        batch: statistics.median(rate(batch, total, seed) for seed in range(5))
        for batch, total in ((1, 100), (64, 1280))
    }
    print(
        f"{rates[64]:.0f} images/s in batches of 64, {rates[64] / rates[1]:.1f} × one at a time "
        f"({rates[1]:.0f}/s); median of 5"
    )
