"""Images a second from images and from cached features, and that both give the same scores.

    python tests/benchmarks/feature_path.py

CLIP ViT-B/32 with random weights, 400 random images of 224 pixels; from features also 200,000 images, against
100 and against 1,000 classes with 10,000 negative labels, in batches of 1,024. No MLLM; metrics and
Lightning's loop are in the time.
"""

import argparse
import time

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from ants_lightning import ANTS, NegativeMemory
from ants_lightning.data.features import FeatureStream
from ants_lightning.data.streams import MixedStream


class Images(Dataset):
    """Random images, made before."""

    def __init__(self, n):
        self.images = torch.randn(n, 3, 224, 224)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], -(index % 2)


def make_model(classes, negatives):
    words = [f"w{i}" for i in range(negatives)]
    model = ANTS(
        "ViT-B-32",
        None,
        class_names=[f"c{i}" for i in range(classes)],
        negatives={"nouns": words, "keep": 1.0},
    )
    texts = [f"The nice {word}." for word in (*model.hparams["class_names"], *words)]
    model.encoder.remember(texts, torch.randn(len(texts), 512))
    return model


def timed(model, loader, memory=True):
    """Seconds of a test run, and the mean of the scores."""
    callbacks = [NegativeMemory(None)] if memory else []
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    start = time.perf_counter()
    found = trainer.test(model, loader, verbose=False)[0]
    return time.perf_counter() - start, found["test/ood/test/neglabel/auroc"]


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.manual_seed(0)
    n, images, model = 400, Images(400), make_model(100, 1000)
    seconds, auroc = timed(model, DataLoader(images, batch_size=64))
    features = torch.cat([model.encode(part)[0] for part in images.images.split(64)])
    stream = MixedStream(range(n // 2), range(n // 2), transform=None)
    stream.order = torch.stack([torch.arange(n // 2), n // 2 + torch.arange(n // 2)], 1).flatten()
    cached = [
        {"features": part, "label": torch.zeros(n // 2, dtype=torch.long)}
        for part in (features[::2], features[1::2])
    ]
    cached_seconds, cached_auroc = timed(model, FeatureStream(stream, cached).loader(64, None))
    print(f"from {n} images: {n / seconds:.0f} images a second, AUROC {auroc:.6f}")
    print(
        f"from their features: {n / cached_seconds:.0f}, AUROC {cached_auroc:.6f}; set-up of a run is most "
        f"of that"
    )
    for classes, negatives in ((100, 1_000), (1_000, 10_000)):
        model, n = make_model(classes, negatives), 200_000
        features = F.normalize(torch.randn(n // 2, 512), dim=1)
        sets = [{"features": features, "label": torch.zeros(n // 2, dtype=torch.long)}] * 2
        loader = FeatureStream(MixedStream(range(n // 2), range(n // 2), None), sets).loader(1024, None)
        for memory in (False, True):
            many, _ = timed(model, loader, memory)
            what = "with NegativeMemory" if memory else "MCM and NegLabel alone"
            ratio = seconds * n / 400 / many
            print(
                f"{n} features, {classes} classes, {negatives} labels, {what}: {n / many:.0f} a second, "
                f"{ratio:.0f} times"
            )
