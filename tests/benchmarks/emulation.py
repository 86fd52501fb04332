"""Streams of real CLIP features, and an MLLM emulated by retrieval over names, for `strength.py`.

Names are those of LVIS, OpenImages and Objects365. The MLLM sees an image as a pointer to its features.
"""

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ants_lightning import ANTS
from ants_lightning.adapt.hygiene import Hygiene
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.data.class_names import class_names_of
from ants_lightning.data.features import FeatureStream
from ants_lightning.data.streams import MixedStream

CLASSES = list(class_names_of("imagenet1k"))
ANIMALS = range(398)
OTHERS = {"dtd": "dtd_test_img", "sun397": "sun397_val_img", "flowers": "oxford_flowers_val_img"}
SPLITS = ("imagenet halves", "animal halves", "animals")
ANSWERS = ("nearest", "noisy", "random")
NEIGHBOURS = 10  # names that a noisy answer is drawn from


class Features:
    """The features of the file, and the names whose texts are among them."""

    def __init__(self, path):
        self.file = np.load(path)
        self.images, self.label = self.of("imagenet_img"), torch.from_numpy(self.file["imagenet_lab"])
        self.class_text = self.of("imagenet_text_b")
        texts = {}
        for key in ("lvis", "oid", "o365"):
            names = [name.replace("_", " ").lower() for name in self.file[f"{key}_names"].tolist()]
            texts |= dict(zip(names, self.of(f"{key}_text"), strict=True))
        self.names, self.name_text = list(texts), torch.stack(list(texts.values()))

    def of(self, key):
        return F.normalize(torch.from_numpy(self.file[key]).float(), dim=1)

    def stream(self, kind, seed):
        """Classes, features and labels of the ID images, and features of the OOD images."""
        if kind in OTHERS:
            return CLASSES, self.images, self.label, self.of(OTHERS[kind])
        pool = torch.tensor(ANIMALS if kind == "animal halves" else range(len(CLASSES)))
        known = pool[
            torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[: len(pool) // 2]
        ]
        if kind == "animals":
            known = torch.arange(len(ANIMALS), len(CLASSES))
        known = known.sort().values
        unknown = pool[~torch.isin(pool, known)]
        is_id, is_ood = torch.isin(self.label, known), torch.isin(self.label, unknown)
        label = torch.bucketize(self.label[is_id], known)
        return [CLASSES[c] for c in known], self.images[is_id], label, self.images[is_ood]


class Stream(L.LightningDataModule):
    """One stream of ID and OOD features, in mixed order."""

    def __init__(self, features, kind, seed, batch_size=64):
        super().__init__()
        self.class_names, known, label, unknown = features.stream(kind, seed)
        parts = [
            {"features": known, "label": label},
            {"features": unknown, "label": torch.zeros(len(unknown))},
        ]
        stream = MixedStream(range(len(known)), {kind: range(len(unknown))}, transform=None, seed=seed)
        stream.raw_image = pointer
        self.kind, self.batch_size, self.stream = kind, batch_size, FeatureStream(stream, parts)
        self.features = torch.cat([known, unknown])[stream.order]  # in the order of the stream
        self.groups = {kind: "far" if kind in OTHERS else "near"}

    def test_dataloader(self):
        return {self.kind: self.stream.loader(self.batch_size, None)}


def pointer(index):
    """An image of which every pixel is the number `index`."""
    return Image.new("RGB", (8, 8), (index >> 16, index >> 8 & 255, index & 255))


class Retrieval:
    """An MLLM that answers with names near to an image or a class.

    Args:
        features: of the file.
        stream: whose images it is shown.
        answers: `nearest`: the nearest name, or names; `noisy`: random ones of the nearest; `random`: any.
    """

    def __init__(self, features, stream, answers="nearest", seed=0):
        self.answers, self.stream, self.class_text = answers, stream, class_text(features, stream.class_names)
        named = Hygiene(stream.class_names, self.class_text, None).is_id_name
        free = [i for i, name in enumerate(features.names) if not named(name)]
        self.names, self.text = [features.names[i] for i in free], features.name_text[free]
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
        index = [(r << 16) + (g << 8) + b for r, g, b in (image.getpixel((0, 0)) for image in images)]
        return [self._near(self.stream.features[i % len(self.stream.features)], 1)[0] for i in index]

    def similar_classes(self, names, count=5, images=None):
        rows = self.class_text[[self.stream.class_names.index(name) for name in names]]
        return [self._near(row, count) for row in rows]


def class_text(features, names):
    return features.class_text[[CLASSES.index(name) for name in names]]


def make_model(features, stream, **settings):
    """An ANTS whose texts have the features of the file; its own towers, of random weights, encode nothing.

    G is set for groups of about 100 negative labels, as a preset's G gives with WordNet.
    """
    negatives = {"nouns": features.names, "adjectives": [], **settings.pop("negatives", {})}
    settings["num_groups"] = max(1, round(negatives.get("keep", Negatives.keep) * len(features.names) / 100))
    model = ANTS("ViT-B-32", None, class_names=stream.class_names, negatives=negatives, **settings)
    model.encoder.remember(
        [Prompts().id.format(name) for name in stream.class_names], class_text(features, stream.class_names)
    )
    for prompt in {"{}", Prompts().id}:
        model.encoder.remember([prompt.format(name) for name in features.names], features.name_text)
    model.clip.encode_text = _refuse
    return model


def _refuse(*_, **__):
    raise AssertionError("a text whose feature is not in the file")
