"""A data module and an MLLM that know nothing of this package."""

import json

import lightning as L
import torch
from small import merged
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES

NOUNS, ADJECTIVES = demo.WORDS["nouns"], demo.WORDS["adjectives"]


N = 36  # images of each kind


class ForeignDataModule(L.LightningDataModule):
    """Plain `(image, label)` batches, from one loader or a dict of loaders."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def test_dataloader(self):
        if isinstance(self.data, dict):
            return {name: DataLoader(data, batch_size=10) for name, data in self.data.items()}
        return DataLoader(self.data, batch_size=10)


class RecordingMLLM:
    """Keeps what it is shown; raises on every `fail_every`-th call."""

    def __init__(self, fail_every=0):
        self.fail_every, self.calls, self.asked, self.failed = fail_every, 0, 0, 0
        self.images, self.avoid = [], []
        self.device = None

    def setup(self, device):
        self.device = device

    def _count(self, questions):
        self.calls += 1
        self.asked += len(questions)
        if self.fail_every and self.calls % self.fail_every == 0:
            self.failed += len(questions)
            raise RuntimeError("out of order")

    def describe(self, images, avoid):
        self._count(images)
        self.images += images
        self.avoid += avoid
        return [f"a {ADJECTIVES[i % 5]} {NOUNS[i % 7]}" for i in range(len(images))]

    def similar_classes(self, names, count=5):
        self._count(names)
        return [[f"odd {name}", f"strange {name}"] for name in names]


def make_model(**changes):
    words = {"nouns": NOUNS, "adjectives": ADJECTIVES, "keep": 0.7}
    return ANTS(
        demo.CLIP,
        pretrained=None,
        **merged(changes, {"class_names": ID_CLASSES, "negatives": words, "num_groups": 5}),
    )


def tensors(model, drawn, label=None):
    """A `TensorDataset` of preprocessed drawings."""
    labels = [place if label is None else label for _, place in drawn]
    return TensorDataset(torch.stack([model.preprocess(image) for image, _ in drawn]), torch.tensor(labels))


def mixed(model, seed):
    """ID and OOD drawings in turn, and their pixels `(2N, 3, h, w)`."""
    known, unknown = demo.DrawnImages(ID_CLASSES, N, seed), demo.DrawnImages(NEAR_CLASSES, N, seed + 1)
    turns = torch.arange(2 * N).view(2, N).T.flatten()
    parts = zip(tensors(model, known).tensors, tensors(model, unknown, -1).tensors, strict=True)
    data = TensorDataset(*(torch.cat(pair)[turns] for pair in parts))
    pixels = torch.stack([pil_to_tensor(image) for images in (known, unknown) for image, _ in images])
    return data, pixels[turns]


def make_trainer(folder, *callbacks):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Report()],
    )


def memory(mllm, **settings):
    return NegativeMemory(mllm, schedule={"every": 2, "min_images": 20}, vsnl={"delta": 0.5}, **settings)


def read(folder):
    return json.loads((folder / "results.json").read_text("utf-8"))
