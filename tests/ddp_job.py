"""What the processes of `test_ddp.py` run: `python ddp_job.py <folder> <what> <devices> <batch size>`."""

import logging
import os
import sys
import time
from pathlib import Path

import lightning as L
import torch
from PIL import ImageStat
from small import merged
from torch.utils.data import DataLoader, TensorDataset

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.baselines import EOE, TANL, AdaNeg, Energy
from ants_lightning.cli import Trainer
from ants_lightning.demo.scenery import SCENES

CASES = ("demo", "persist", "foreign", "short")


class ColourMLLM:
    """Answers that depend on the image and the names alone."""

    def setup(self, device):
        pass

    def identity(self):
        return {"model": "colour"}

    def describe(self, images, avoid):
        answers = []
        for image, name in zip(images, avoid, strict=True):
            mean = [int(x) for x in ImageStat.Stat(image).mean]
            adjective = demo.WORDS["adjectives"][(mean[0] + len(name)) % len(demo.WORDS["adjectives"])]
            noun = demo.WORDS["nouns"][(mean[1] + 3 * mean[2]) % len(demo.WORDS["nouns"])]
            answers.append(f"a {adjective} {noun} no {mean[0]}")
        return answers

    def similar_classes(self, names, count=5, images=None):
        pairs = zip(names, images or [None] * len(names), strict=True)
        numbers = [
            len(name) + (int(sum(ImageStat.Stat(image).mean)) if image else 0) for name, image in pairs
        ]
        nouns = demo.WORDS["nouns"]
        return [[nouns[number * (k + 3) % len(nouns)] for k in range(count)] for number in numbers]


def no_eyes(folder):
    """Fail, and leave word when that was."""
    (Path(folder) / "failed").write_text(str(time.monotonic()), encoding="utf-8")
    raise OSError("no eyes here")


class Failing(ColourMLLM):
    """Raises on one rank: when it is loaded, at the first question, or ("describe") only once the stream
    runs.
    """

    def __init__(self, folder, rank, when):
        self.folder, self.rank, self.when = folder, rank, when
        self.replays = when == "describe"  # is not asked before the stream

    def setup(self, device):
        self._fail("setup")

    def describe(self, images, avoid):
        self._fail("describe")
        self._fail("first")
        return super().describe(images, avoid)

    def _fail(self, now):
        if now == self.when and torch.distributed.get_rank() == self.rank:
            no_eyes(self.folder)


class Dump(L.Callback):
    """Keeps the scores and the label of every image, by stream and place in the stream."""

    def __init__(self):
        self.scores = {}

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        columns = {**outputs["scores"], "label": outputs["label"]}
        stream = self.scores.setdefault(list(pl_module.evaluation.groups)[dataloader_idx], {})
        for i, index in enumerate(outputs["index"].tolist()):
            assert index not in stream
            stream[index] = {name: column[i].item() for name, column in columns.items()}


class Foreign(L.LightningDataModule):
    """Plain loaders of tensors, which Lightning pads and shares as it does: `(image, label)`, no index, no
    raw images.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size, self.class_names = batch_size, demo.DemoDataModule(n_id=1, n_ood=1).class_names

    def setup(self, stage):
        own = demo.DemoDataModule(n_id=45, n_ood=44, batch_size=self.batch_size)
        own.trainer = self.trainer
        own.setup(stage)
        items = [own.streams["scenes"][i] for i in range(89)]
        self.images = torch.stack([item["image"] for item in items])
        self.labels = torch.tensor([item["label"] for item in items])

    def test_dataloader(self):
        tiny = torch.stack([(self.labels >= 0).nonzero()[0], (self.labels < 0).nonzero()[0]])[:, 0]
        parts = {"long": torch.arange(61), "tiny": tiny, "rest": torch.arange(40, 89)}
        return {
            name: DataLoader(TensorDataset(self.images[rows], self.labels[rows]), self.batch_size)
            for name, rows in parts.items()
        }


def data_of(case, batch_size):
    if case == "foreign":
        return Foreign(batch_size)
    n = 1 if case == "short" else 61  # there are streams of two images, and 1 + 72
    data = demo.DemoDataModule(n_id=n, n_ood=min(n, 60), batch_size=batch_size)
    # 61 + 72 = 133 = 11 · 12 + 1 images: the 12th batch, a sync point, is one that the first rank alone has.
    data.ood_sets["scenes"] = demo.DrawnImages(SCENES, 72, 9)
    return data


def trainer_of(folder, devices, callbacks=(), kind=L.Trainer):
    nodes = int(os.environ.get("SLURM_NNODES", 1))
    return kind(
        accelerator="cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


def score(folder, case, devices, batch_size, mllm=None, **settings):
    """Run one case, and keep the scores of this rank beside the results."""
    baselines = [Energy(), EOE(), AdaNeg(), TANL(labels=20)] if case == "demo" else [Energy(), AdaNeg()]
    model = ANTS(
        demo.CLIP,
        pretrained=None,
        negatives={**demo.WORDS, "keep": 0.7},
        num_groups=5,
        baselines=baselines,
        threshold="auto",
    )
    settings = merged(
        settings,
        {
            "schedule": {"every": 1, "min_images": 1} if case == "short" else {"every": 3, "min_images": 30},
            "ens": {"size": 60},
            "vsnl": {"delta": 0.5, "show_images": case in ("demo", "foreign")},
            "persist": case in ("persist", "foreign"),
        },
    )
    dump = Dump()
    memory = NegativeMemory(mllm or ColourMLLM(), **settings)
    trainer = trainer_of(folder, devices, [memory, dump, Report()])
    trainer.test(model, data_of(case, batch_size), verbose=False)
    torch.save(dump.scores, Path(folder) / f"scores_{trainer.global_rank}.pt")


def encode(folder, devices):
    """Encode the demo's data sets."""
    data = demo.DemoDataModule(n_id=61, n_ood=60, batch_size=8, features=str(Path(folder) / "features"))
    return trainer_of(folder, devices, kind=Trainer).encode(ANTS(demo.CLIP, pretrained=None), data)


def fail(folder, devices, what, rank):
    """One rank fails: at `setup` of the MLLM, its first question or a later `describe`, or when `model` or
    `data` are set up.
    """

    def raises_here(given):
        def setup(self, stage):
            if torch.distributed.get_rank() == rank:
                no_eyes(folder)
            return given(self, stage)

        return setup

    if what in ("model", "data"):
        owner = ANTS if what == "model" else demo.DemoDataModule
        owner.setup = raises_here(owner.setup)
    if what == "describe":
        score(Path(folder) / "continued", "demo", devices, 6, Failing(folder, rank, what))
    score(folder, "demo", devices, 6, Failing(folder, rank, what), on_failure="raise")


def main(folder, what, devices, batch_size="6", rank="0"):
    torch.set_num_threads(1)
    logging.basicConfig()
    logging.getLogger("ants_lightning").setLevel(logging.INFO)
    if what.startswith("fail_"):
        fail(folder, int(devices), what.removeprefix("fail_"), int(rank))
    else:
        for case in CASES if what == "all" else [what]:
            score(Path(folder) / case, case, int(devices), int(batch_size))
        if what == "all" and int(devices) < 3:
            assert encode(folder, int(devices)) == ["id", "ood lookalikes", "ood textures", "ood scenes"]
            assert encode(folder, int(devices)) == []  # all there, and known again


if __name__ == "__main__":
    main(*sys.argv[1:])
