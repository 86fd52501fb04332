"""Streams of real CLIP features, and an MLLM emulated by retrieval over names, for `strength.py`.

Names are those of LVIS, OpenImages and Objects365. The MLLM sees an image as a pointer to its features.
"""

import lightning as L
import torch
from PIL import Image

from ants_lightning.adapt.hygiene import Hygiene
from ants_lightning.data.features import FeatureStream
from ants_lightning.data.streams import MixedStream
from tests.benchmarks.real_features import SETS, Features, features, name_texts

CLASSES = Features.class_names
ANIMALS = range(398)
SPLITS = ("imagenet halves", "animal halves", "animals")
ANSWERS = ("nearest", "noisy", "random")
NEIGHBOURS = 10  # names that a noisy answer is drawn from


def parts_of(file, kind, seed):
    """ID classes, and features and labels of the ID images and of the OOD images."""
    image, label = features(file, "imagenet_img"), torch.from_numpy(file["imagenet_lab"])
    every = torch.arange(len(CLASSES))
    if kind in SETS:
        known, is_ood, unknown = every, label < 0, features(file, SETS[kind])
    else:
        pool = every[ANIMALS] if kind == "animal halves" else every
        mixed = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))]
        known = every[len(ANIMALS) :] if kind == "animals" else mixed[: len(pool) // 2].sort().values
        is_ood = torch.isin(label, pool[~torch.isin(pool, known)])
        unknown = image[is_ood]
    is_id = torch.isin(label, known)
    id_part = {"features": image[is_id], "label": torch.bucketize(label[is_id], known)}
    ood_part = {"features": unknown, "label": torch.zeros(len(unknown), dtype=torch.long)}
    return known.tolist(), id_part, ood_part


class Stream(L.LightningDataModule):
    """One stream of ID and OOD features, in mixed order."""

    def __init__(self, file, kind, seed, batch_size=64):
        super().__init__()
        known, *parts = parts_of(file, kind, seed)
        sizes = [range(len(part["label"])) for part in parts]
        stream = MixedStream(sizes[0], {kind: sizes[1]}, transform=None, seed=seed)
        stream.raw_image = pointer
        self.class_names = [CLASSES[c] for c in known]
        self.class_text = features(file, "imagenet_text_b")[known]
        self.features = torch.cat([part["features"] for part in parts])[stream.order]
        self.kind, self.batch_size, self.stream = kind, batch_size, FeatureStream(stream, parts)
        self.groups = {kind: "far" if kind in SETS else "near"}

    def test_dataloader(self):
        return {self.kind: self.stream.loader(self.batch_size, None)}


def pointer(index):
    """An image of which every pixel is the number `index`."""
    return Image.new("RGB", (8, 8), (index >> 16, index >> 8 & 255, index & 255))


class Retrieval:
    """An MLLM that answers with names near to an image or a class, but with none that an ID class has.

    Args:
        file: of the names.
        stream: whose images it is shown.
        answers: `nearest`: the nearest name, or names; `noisy`: random ones of the nearest; `random`: any.
        seed: of the random ones.
    """

    def __init__(self, file, stream, answers="nearest", seed=0):
        self.answers, self.stream = answers, stream
        is_id_name = Hygiene(stream.class_names, stream.class_text, None).is_id_name
        free = {name: text for name, text in name_texts(file).items() if not is_id_name(name)}
        self.names, self.text = list(free), torch.stack(list(free.values()))
        self.g = torch.Generator().manual_seed(seed)

    def setup(self, device):
        pass

    def _near(self, feature, count):
        near = (self.text @ feature).argsort(descending=True)
        if self.answers == "noisy":
            near = near[torch.randperm(max(NEIGHBOURS, 2 * count), generator=self.g)]
        elif self.answers == "random":
            near = torch.randperm(len(near), generator=self.g)
        return [self.names[i] for i in near[:count]]

    def describe(self, images, avoid):
        # The picture of the question before the stream points nowhere: any image will do
        index = [(r << 16) + (g << 8) + b for r, g, b in (image.getpixel((0, 0)) for image in images)]
        return [self._near(self.stream.features[i % len(self.stream.features)], 1)[0] for i in index]

    def similar_classes(self, names, count=5, images=None):
        rows = self.stream.class_text[[self.stream.class_names.index(name) for name in names]]
        return [self._near(row, count) for row in rows]
