"""Streams with faulty images."""

import lightning as L
import torch
from faulty import expected
from small import merged
from torch.utils.data import DataLoader

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.common.hashes import pixel_hash
from ants_lightning.demo.shapes import ID_CLASSES

QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


class Shown:
    """Answers by the pixels that it is shown, and keeps them."""

    def __init__(self):
        self.images = []

    def setup(self, device):
        pass

    def describe(self, images, avoid):
        self.images += [pixel_hash(image) for image in images]
        words = demo.WORDS["nouns"]
        return [f"a {words[int(pixel_hash(image)[:6], 16) % len(words)]} on sand" for image in images]

    def similar_classes(self, names, count=5):
        return [[f"odd {name}", f"strange {name}"] for name in names]


class GoodOnly(L.LightningDataModule):
    """The batches of a stream, made beforehand of its good images by a plain loop; the images for the MLLM
    are those.
    """

    def __init__(self, faults, stream, transform, size):
        super().__init__()
        good, _ = expected(faults, stream, transform)
        self.class_names, self.groups, self.stream, self.batches = ID_CLASSES, {"scenes": "far"}, stream, []
        for start in range(0, len(stream), size):
            here = [i for i in range(start, min(start + size, len(stream))) if i in good]
            image = torch.stack([good[i][0] for i in here]) if here else torch.empty(0, 3, 1, 1)
            label, index = (torch.tensor(column).long() for column in ([good[i][1] for i in here], here))
            self.batches.append({"image": image, "label": label, "index": index})

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k]

    def raw_image(self, index):
        return self.stream.raw_image(index)

    def test_dataloader(self):
        return {"scenes": DataLoader(self, batch_size=None)}


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))


def run(data, root, model=None, what="test", precision="32-true", **settings):
    model, mllm, report = model or make_model(), Shown(), Report()
    memory = NegativeMemory(mllm, **merged({"record": None, **settings}))
    trainer = L.Trainer(**QUIET, precision=precision, callbacks=[memory, report], default_root_dir=root)
    if what == "predict":
        return trainer.predict(model, data), mllm
    trainer.test(model, data, verbose=False)
    return model, mllm, report.results["streams"]["scenes"]


def measured(result, **changes):
    return {**result, "mllm_seconds": 0, "stream": 0, **changes}
