"""Jobs that are interrupted and gone on with, for the tests of snapshots."""

import json

import lightning as L
import pytest
import torch
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.run.snapshot_files import (
    list_snapshots,
    read_share,
)
from ants_lightning.run.snapshots import Snapshots

CPU = torch.device("cpu")


class Namer:
    """Answers that depend on the size of the question alone."""

    def setup(self, device):
        pass

    def identity(self):
        return {"model": "namer"}

    def describe(self, images, avoid):
        return [demo.WORDS["nouns"][sum(image.getpixel((5, 5))) % 40] for image in images]

    def similar_classes(self, names, count=5, images=None):
        return [[demo.WORDS["nouns"][(len(name) + k) % 40] for k in range(count)] for name in names]


class At(L.Callback):
    """Does something in the n-th batch of the run that is not skipped, after the memory and before the
    metrics; counts images.
    """

    def __init__(self, n=0, action=None):
        self.n, self.action, self.seen, self.images = n, action, 0, 0

    def state(self):
        return {"images": self.images, "where": torch.tensor([self.images])}

    def restore(self, trainer, pl_module, state):
        assert state["where"].tolist() == [state["images"]]
        self.images = state["images"]

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if outputs is None:
            return
        self.seen += 1
        self.images += len(outputs["label"])
        if self.seen == self.n:
            self.action()


class Job:
    """Test runs of one configuration in one folder: 3 streams of 24 images, in batches of 4."""

    def __init__(self, folder):
        self.folder, self.snapshots = folder, folder / "snapshots"

    def run(
        self, at=None, every=2, resume=None, keep=2, last=False, model=None, data=None, mllm=None, **memory
    ):
        base = {"ens": {"size": 12}, "vsnl": {"delta": 0.5}, "schedule": {"every": 2, "min_images": 8}}
        memory = NegativeMemory(mllm or Namer(), **merged(memory, base))
        self.callback, self.at = Snapshots(every, resume, keep), at or At()
        callbacks = [memory, self.at, Report()]
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
            callbacks=[*callbacks, self.callback] if last else [self.callback, *callbacks],
        )
        data = demo.DemoDataModule(seed=3, n_id=12, batch_size=4, **{"n_ood": 12, **(data or {})})
        trainer.test(model or self.make_model(), data, verbose=False)
        return self.results()

    @staticmethod
    def make_model(**settings):
        base = {"negatives": {"nouns": demo.WORDS["nouns"], "adjectives": [], "keep": 0.7}, "num_groups": 5}
        return ANTS(demo.CLIP, pretrained=None, **merged(settings, base))

    def results(self):
        results = json.loads((self.folder / "results.json").read_text("utf-8"))
        for stream in results["streams"].values():
            del stream["mllm_seconds"]
        return results

    def serials(self):
        return [int(path.name) for path in list_snapshots(self.snapshots)]

    def position(self):
        return read_share(list_snapshots(self.snapshots)[0], 0)[0]["position"]

    def interrupt(self, n, **settings):
        with pytest.raises(ZeroDivisionError):
            self.run(At(n, lambda: 1 / 0), **settings)
        return self.position()
