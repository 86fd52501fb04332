"""How strong each preset is on real CLIP features, with an emulated MLLM (`emulation.py`).

    python -m tests.benchmarks.strength ../shared/data/clip_vitb32_features.npz

Streams, CLIP ViT-B/32: ImageNet against DTD, SUN397 and Flowers, and parts of ImageNet against others: halves
of all classes, halves of the animals, the animals against all else. Each preset is run on every stream and
seed. The table has AUROC / FPR95 / FPR95 of OpenOOD in percent: means over the streams, and below them the
AUROC of the worst one. Settings are chosen on seeds 0 and 1, and reported on 2 and 3.
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import lightning as L
import numpy as np
import torch
import yaml

from ants_lightning import NegativeMemory
from tests.benchmarks.emulation import ANSWERS, SPLITS, Retrieval, Stream
from tests.benchmarks.real_features import SETS, make_model

KINDS = (*SETS, *SPLITS)
METRICS = ("auroc", "fpr95", "fpr95_openood")
COLUMNS = ("mcm", "neglabel", "ens", "vsnl", "ants")
PRESETS = Path(__file__).parents[2] / "configs/method"


def settings_of(preset):
    """What a preset sets of the memory and of the model; nothing for the defaults."""
    config = {} if preset == "defaults" else yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    return config.get("memory", {}), config.get("model", {})


def run(file, kind, seed, answers, memory, model):
    """The result of one stream, as in `results.json`."""
    L.seed_everything(seed, verbose=False)
    stream = Stream(file, kind, seed)
    with tempfile.TemporaryDirectory() as root:
        memory = NegativeMemory(Retrieval(file, stream, answers, seed), record=None, **memory)
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=root,
            callbacks=[memory],
        )
        detector = make_model(file, class_names=stream.class_names, **model)
        trainer.test(detector, stream, verbose=False)
        return detector.results[kind]


def show(title, results):
    """A row of the table: `results` by stream and seed."""
    found = defaultdict(lambda: defaultdict(list))
    for kind, result in results:
        for column in COLUMNS:
            found[column][kind].append([100 * result["scores"][column][metric] for metric in METRICS])
    cells, worst = [], []
    for column in COLUMNS:
        by_kind = {kind: torch.tensor(rows).mean(0) for kind, rows in found[column].items()}
        mean = torch.stack(list(by_kind.values())).mean(0).tolist()
        kind, least = min(((kind, float(row[0])) for kind, row in by_kind.items()), key=lambda pair: pair[1])
        cells.append(" / ".join(f"{value:.1f}" for value in mean))
        worst.append(f"{least:.1f} {kind}")
    asked = sum(result["mllm_calls"] for _, result in results)
    images = sum(result["n_id"] + result["n_ood"] for _, result in results)
    print(f"| {title} | {' | '.join(cells)} | {asked / images:.2f} |", flush=True)
    print(f"| … worst AUROC | {' | '.join(worst)} | |", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--presets", nargs="+", default=["defaults", "paper", "official"])
    parser.add_argument("--answers", nargs="+", default=["nearest"], choices=ANSWERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--streams", nargs="+", default=KINDS, choices=KINDS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "ants_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    file, begun = np.load(args.file), time.monotonic()
    print(f"| preset, answers | {' | '.join(COLUMNS)} | questions an image |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for answers in args.answers:
        for preset in args.presets:
            memory, model = settings_of(preset)
            results = [
                (kind, run(file, kind, seed, answers, memory, model))
                for kind in args.streams
                for seed in args.seeds
            ]
            show(f"{preset}, {answers}", results)
    print(f"\nseeds {args.seeds}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
