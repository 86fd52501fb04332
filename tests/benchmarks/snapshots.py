"""What a snapshot costs: `python tests/benchmarks/snapshots.py`.

A state as of a large run: 100,000 images × 12 scores in batches of 256, a bank of 10,000 × 512, an ENS queue
of 10,000, and 10,000 texts that were encoded since the start. With `--foreign N` also N images of 224 pixels
that a foreign loader gave and the MLLM has not described yet; they are as hard to compress as photographs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize
from torchvision.transforms.functional import to_tensor

from ants_lightning.adapt.bank import MemoryBank
from ants_lightning.adapt.settings import Mining
from ants_lightning.data.raw import RawImages
from ants_lightning.metrics import OODMetrics
from ants_lightning.run.snapshot_files import (
    list_snapshots,
    partial,
    publish,
    read_share,
    unpack,
    write_share,
)


def make_state(images: int, size: int, scores: int, bank: int, dim: int) -> dict:
    """The large parts of a state."""
    metric = OODMetrics([f"score {i}" for i in range(scores)])
    bank = MemoryBank(dim, Mining(gamma=1.0, bank_size=bank))
    for start in range(0, images, size):
        n = min(size, images - start)
        metric.update(torch.rand(n, scores, dtype=torch.float64), torch.zeros(n), torch.zeros(n))
        index = start + torch.arange(n)
        bank.add(
            {
                "index": index,
                "id_score": torch.rand(n),
                "prediction": index % 100,
                "owner": torch.zeros_like(index),
                "features": torch.rand(n, dim),
            }
        )
    texts = [f"a sentence of some words, number {i}" for i in range(10_000)]
    return {
        "metrics": metric.state(),
        "bank": bank.state(),
        "ens": [texts, torch.rand(len(texts), dim)],
        "texts": {"texts": texts, "features": torch.rand(len(texts), dim)},
    }


def make_raw(images: int) -> RawImages:
    """What is kept of a foreign stream; prints what keeping an image took."""
    norm = Normalize((0.5,) * 3, (0.5,) * 3)
    layers = [
        to_tensor(Image.effect_noise((28, 28), 60).resize((224, 224), Image.Resampling.BICUBIC))
        for _ in range(24)
    ]
    photos = norm(torch.stack([torch.cat(layers[i : i + 3]) for i in range(0, 24, 3)]))
    raw, start = RawImages(object(), Compose([norm]), images), time.perf_counter()
    for place in range(0, images, len(photos)):
        raw.keep(photos, place + torch.arange(len(photos)), torch.ones(len(photos), dtype=torch.bool))
    sys.stdout.write(
        f"keeping an image of a foreign loader: {(time.perf_counter() - start) / images * 1e3:.1f} ms\n"
    )
    return raw


def main() -> None:
    """Print size and seconds of the last of five."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--foreign", type=int, default=0)
    args = parser.parse_args()
    state = make_state(args.images, args.batch_size, scores=12, bank=10_000, dim=512)
    state |= {"raw": make_raw(args.foreign).state()} if args.foreign else {}
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
