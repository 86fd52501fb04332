"""What a snapshot costs: `python tests/benchmarks/snapshots.py`.

A state as of a large run: 100,000 images × 12 scores in batches of 256, a bank of 10,000 × 512, an ENS queue of 10,000, and 10,000
texts that were encoded since the start.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from ants_lightning.evidence import Evidence
from ants_lightning.metrics import OODMetrics
from ants_lightning.snapshot_files import list_snapshots, partial, publish, read_share, unpack, write_share


def make_state(images: int, size: int, scores: int, bank: int, dim: int) -> dict:
    """The large parts of a state."""
    metric, evidence = OODMetrics([f"score {i}" for i in range(scores)]), Evidence(dim, gamma=1.0, bank_size=bank)
    for start in range(0, images, size):
        n = min(size, images - start)
        metric.update(torch.rand(n, scores, dtype=torch.float64), torch.zeros(n), torch.zeros(n))
        index = start + torch.arange(n)
        evidence.add({
            "index": index, "id_score": torch.rand(n), "prediction": index % 100, "owner": torch.zeros_like(index),
            "features": torch.rand(n, dim),
        })  # fmt: skip
    texts = [f"a sentence of some words, number {i}" for i in range(10_000)]
    return {"metrics": metric.state(), "evidence": evidence.state(), "ens": [texts, torch.rand(len(texts), dim)],
            "texts": {"texts": texts, "features": torch.rand(len(texts), dim)}}  # fmt: skip


def main() -> None:
    """Print size and seconds of the last of five."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch_size", type=int, default=256)
    args = parser.parse_args()
    state = make_state(args.images, args.batch_size, scores=12, bank=10_000, dim=512)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for serial in range(5):
            start = time.perf_counter()
            size = write_share(partial(root, serial), 0, {}, state)
            publish(root, serial, world=1, keep=2)
            written = time.perf_counter() - start
        start = time.perf_counter()
        about, tensors = read_share(list_snapshots(root)[0], 0)
        unpack(about["state"], tensors, torch.device("cpu"))
        read = time.perf_counter() - start
    sys.stdout.write(f"{size / 1e6:.1f} MB, written in {written:.2f} s, read in {read:.2f} s\n")


if __name__ == "__main__":
    main()
