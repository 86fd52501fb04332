"""A stream of a million images from features: does memory stay flat, and are the last batches as fast as
the first?

    OMP_NUM_THREADS=2 python tests/benchmarks/endless.py

The demo's CLIP and LLaVA. 4,000 drawn images are encoded once; each image of the stream is one of them, its
feature with noise of its own. `trainer.predict` adapts and writes rows; `--test` measures too, and keeps
every score for that.
"""

import argparse
import ctypes
import gc
import math
import os
import tempfile
import time
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from ants_lightning import ANTS, NegativeMemory, PredictionWriter, demo
from ants_lightning.demo.scenery import SCENES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.mllm import TransformersMLLM


def resident():
    """MiB that this process holds; what was freed is given back first, or growth could hide in it (Linux,
    glibc).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Endless(Dataset):
    """Features of n images, half ID, made from those of a few."""

    def __init__(self, model, n):
        self.n = n
        parts = ((ID_CLASSES, 2000), (NEAR_CLASSES, 1000), (SCENES, 1000))
        self.images = [demo.DrawnImages(names, count, 11) for names, count in parts]
        self.ends = torch.tensor([2000, 3000, 4000])
        pixels = [model.preprocess(image) for images in self.images for image, _ in images]
        self.features = torch.cat(
            [model.encode(torch.stack(pixels[i : i + 200]))[0] for i in range(0, len(pixels), 200)]
        )
        self.labels = torch.tensor([label for _, label in self.images[0]] + [-1] * 2000)

    def __len__(self):
        return self.n

    def place(self, index):
        return (index * 2654435761 + index // 4000) % 4000  # another order each time round

    def __getitems__(self, indices):
        index = torch.tensor(indices)
        places = self.place(index)
        noise = torch.randn(
            len(index), self.features.shape[1], generator=torch.Generator().manual_seed(indices[0])
        )
        features = F.normalize(self.features[places] + 0.2 / math.sqrt(noise.shape[1]) * noise, dim=1)
        return {"features": features, "label": self.labels[places], "index": index}

    def raw_image(self, index):
        place = int(self.place(torch.tensor(index)))
        which = int(torch.bucketize(place, self.ends, right=True))
        return self.images[which][place - (int(self.ends[which - 1]) if which else 0)][0]


class Watch(L.Callback):
    """Prints speed and memory of each tenth."""

    def __init__(self, n, batch_size):
        self.every, self.batch_size = max(1, n // batch_size // 10), batch_size
        self.speeds, self.sizes = [], []

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if (batch_idx + 1) % self.every == 0:
            memory = next(c for c in trainer.callbacks if isinstance(c, NegativeMemory))
            now, asked = time.perf_counter(), memory.refresher.asker.counts["mllm_calls"]
            slept = memory.refresher.asker.counts["mllm_seconds"]
            if hasattr(self, "last"):
                then, asked_then, slept_then = self.last
                seconds = now - then
                self.speeds.append(self.every * self.batch_size / (seconds - slept + slept_then))
                print(
                    f"{(batch_idx + 1) * self.batch_size:9,} images: {self.speeds[-1]:8,.0f} a second "
                    f"without the MLLM, {self.every * self.batch_size / seconds:8,.0f} with its "
                    f"{asked - asked_then:5,} questions; {resident():6.0f} MiB, ENS "
                    f"{len(pl_module.spaces.ens)}, gamma {memory.bank.gamma_star:.4f}"
                )
            self.sizes.append(resident())
            self.last = now, asked, slept

    on_test_batch_end = on_predict_batch_end


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--test", action="store_true")
    args = parser.parse_args()
    model = ANTS(
        demo.CLIP, pretrained=None, class_names=ID_CLASSES, **demo.SETTINGS["model"], threshold="auto"
    )
    stream = Endless(model, args.images)
    loader = DataLoader(stream, batch_size=args.batch_size, collate_fn=lambda batch: batch)
    mllm = TransformersMLLM(demo.LLAVA, max_new_tokens=16, batch_size=32)
    memory = NegativeMemory(mllm, mining={"bank_size": 1000}, **demo.SETTINGS["memory"])
    watch = Watch(args.images, args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[memory, watch, *([] if args.test else [PredictionWriter()])],
        )
        if args.test:
            trainer.test(model, loader, verbose=False)
        else:
            trainer.predict(model, loader, return_predictions=False)
    first, last = watch.speeds[0], watch.speeds[-1]
    print(f"the last tenth is {last / first:.2f} times as fast as the second")
    print(f"memory from {watch.sizes[0]:.0f} to {watch.sizes[-1]:.0f} MiB")
