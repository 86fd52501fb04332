"""Every baseline that needs no MLLM, on real CLIP features, through the feature path.

    python tests/benchmarks/real_features.py ../shared/data/clip_vitb32_features.npz

ImageNet images against DTD, SUN397 and Flowers, CLIP ViT-B/32. Candidates for negative labels are the names
of LVIS, OpenImages and Objects365, of which 15 % are kept, in groups of about 100, as NegLabel has them. CSP,
EOE and GL-MCM are not among the columns: their texts (and patches) are not in the file. TANL's images of
noise go through a tower with random weights here. Writes `runs/real_features/results.json`; ends with the
table and images a second.
"""

import argparse
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F

from ants_lightning import ANTS, NegativeMemory, Report
from ants_lightning.baselines import TANL, AdaNeg, Energy, MaxLogit
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.data.class_names import class_names_of
from ants_lightning.data.features import FeatureStream
from ants_lightning.data.streams import MixedStream

SETS = {"dtd": "dtd_test_img", "sun397": "sun397_val_img", "flowers": "oxford_flowers_val_img"}


class Features(L.LightningDataModule):
    """Streams of ImageNet and another set, from the features in the file."""

    class_names, groups = list(class_names_of("imagenet1k")), dict.fromkeys(SETS, "far")

    def __init__(self, file, seed, batch_size, names):
        super().__init__()
        self.seed, self.batch_size = seed, batch_size
        known = {"features": features(file, "imagenet_img"), "label": torch.from_numpy(file["imagenet_lab"])}
        self.streams = {}
        for name, key in ((name, SETS[name]) for name in names):
            unknown = {"features": features(file, key)}
            unknown["label"] = torch.zeros(len(unknown["features"]), dtype=torch.long)
            stream = MixedStream(
                range(len(known["label"])), {name: range(len(unknown["label"]))}, transform=None, seed=seed
            )
            self.streams[name] = FeatureStream(stream, [known, unknown])

    def test_dataloader(self):
        return {name: stream.loader(self.batch_size, None) for name, stream in self.streams.items()}


def features(file, key):
    return F.normalize(torch.from_numpy(file[key]).float(), dim=1)


def name_texts(file):
    """Text features by name, of LVIS, OpenImages and Objects365."""
    found = {}
    for key in ("lvis", "oid", "o365"):
        names = [name.replace("_", " ").lower() for name in file[f"{key}_names"].tolist()]
        found |= dict(zip(names, features(file, f"{key}_text"), strict=True))
    return found


def make_model(file, **settings):
    """An ANTS whose texts have the features of the file; its own towers have random weights.

    The text tower refuses to encode. G is set for groups of about 100 negative labels.
    """
    names = name_texts(file)
    negatives = {"nouns": list(names), **settings.pop("negatives", {})}
    settings["num_groups"] = round(negatives.get("keep", Negatives.keep) * len(names) / 100)
    model = ANTS("ViT-B-32", None, negatives=negatives, **settings)
    for prompt in ("{}", Prompts().id):
        model.encoder.remember([prompt.format(name) for name in names], torch.stack(list(names.values())))
    model.encoder.remember(
        [Prompts().id.format(name) for name in Features.class_names], features(file, "imagenet_text_b")
    )
    model.clip.encode_text = _refuse
    return model


def _refuse(*_, **__):
    raise AssertionError("a text whose features are not in the file")


def run(path, seed=0, batch_size=64, names=tuple(SETS), root="runs/real_features"):
    L.seed_everything(seed, verbose=False)
    file, report = np.load(path), Report()
    model = make_model(file, baselines=[MaxLogit(), Energy(), AdaNeg(), TANL()])
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[NegativeMemory(schedule={"every": 1}), report],
    )
    data = Features(file, seed, batch_size, names)
    start = time.perf_counter()
    trainer.test(model, data, verbose=False)
    seconds = time.perf_counter() - start
    return report.results, sum(map(len, data.streams.values())) / seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    _, speed = run(args.file, args.seed)
    print(f"{speed:.0f} images a second, set-up and metrics included")
