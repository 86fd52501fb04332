"""Streams that are not half and half: what adaptation does to them, with and without the guard.

    python tests/benchmarks/imbalance.py --seeds 211 212 213 --guard off 0.8
    python tests/benchmarks/imbalance.py --seeds 211 212 213 --init neglabel
    python tests/benchmarks/imbalance.py --seeds 211 --separation --real <features.npz>

The demo's CLIP and LLaVA (NF4) with the settings of configs/demo.yaml; `--init neglabel`: an ENS queue as by
default, M = 10,000, that starts with N_nl. Images are encoded once a seed, and what the LLaVA said is
recorded, in `--root`. Prints Markdown, means over the seeds. `--separation`: only `otsu.separation` of
histories by share of OOD images, with `--real` those of CLIP features too.
"""

import argparse
import contextlib
import io
import logging
import statistics
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import torch
from imbalance_streams import KINDS, REFERENCE, STREAMS, WINDOWS, Parts, Pools
from sklearn.metrics import roc_auc_score

from ants_lightning import ANTS, NegativeMemory
from ants_lightning.common.groups import changed
from ants_lightning.data.features import FeatureStream
from ants_lightning.demo import CLIP, LLAVA, SETTINGS
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.method.negatives import mine_negative_images
from ants_lightning.method.otsu import otsu_cut, separation
from ants_lightning.mllm import TransformersMLLM

INITS = {"empty": {}, "neglabel": {"ens": {"init": "neglabel", "size": 10_000}}}


class Scores(L.Callback):
    """Keeps labels (0 ID, -1 near, -2 far) and scores of the stream, for streams of one class have no
    metrics.
    """

    def __init__(self):
        self.rows = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        scores = {name: outputs["scores"][name] for name in ("neglabel", "ens", "vsnl", "ants")}
        self.rows.append({"label": outputs["label"].clamp(max=0), "id_score": outputs["id_score"], **scores})

    def on_test_end(self, trainer, pl_module):
        pl_module.evaluation.refused.clear()


def run(pools, parts, mllm, **settings):
    """One stream with these settings of `NegativeMemory`: columns by image, and what the run told of its
    adaptation.
    """
    L.seed_everything(0, verbose=False)
    stream = FeatureStream(Parts(pools.sets, parts, pools.seed), list(pools.features.values()))
    model = ANTS(CLIP, class_names=ID_CLASSES, **SETTINGS["model"])
    memory, kept = NegativeMemory(mllm, **changed(SETTINGS["memory"], settings)), Scores()
    with contextlib.redirect_stdout(io.StringIO()):
        pools.trainer(memory, kept).test(model, stream.loader(32, None), verbose=False)
    rows = {name: torch.cat([row[name] for row in kept.rows]) for name in kept.rows[0]}
    told = model.evaluation.adaptation["test"]
    bank = memory.bank.rows
    shown = rows["label"][bank["index"][bank["described"]]]
    told["shown"], told["shown_id"] = len(shown), percent(shown == 0)
    return rows, told


def percent(mask):
    return 100 * float(mask.float().mean()) if len(mask) else float("nan")


def figures(rows, name, threshold, window=slice(None)):
    """What one score does in a window of the stream: in percent, NaN where a side is missing."""
    label, score = rows["label"][window], rows[name][window].double()
    known, unknown = score[label == 0], score[label < 0]
    otsu = 1 - otsu_cut(1 - rows[name].double())
    found = {"mean": float(known.mean())}
    found |= {f"q{q}": float(known.quantile(q / 100)) if len(known) else float("nan") for q in (5, 50, 95)}
    for where, cut in (("reference", threshold), ("0.5", 0.5), ("Otsu", otsu)):
        found |= {f"accepted {where}": percent(known <= cut), f"rejected {where}": percent(unknown > cut)}
    found |= dict.fromkeys(("auroc", "fpr95"), float("nan"))
    if len(known) and len(unknown):
        found |= {
            "auroc": 100 * roc_auc_score(label < 0, score),
            "fpr95": percent(unknown <= known.quantile(0.95)),
        }
    return found


def agreement(rows):
    """AUROC with which o_ens (of earlier images' sentences) tells X_neg of the stream from its other
    images, in percent.
    """
    s = rows["id_score"][300:]
    negative = torch.zeros(len(s), dtype=torch.bool).index_fill(0, mine_negative_images(s, 0.9, 0.5)[0], True)
    return 100 * roc_auc_score(negative, rows["ens"][300:])


def measure(args):
    """All runs: figures by (stream, window, guard, score), and what was told by (stream, guard), a list
    over the seeds.
    """
    mllm = TransformersMLLM(LLAVA, batch_size=32, max_new_tokens=16)
    found, told = {}, {}
    for seed in args.seeds:
        pools = Pools(seed, args.root)
        for guard in args.guard:
            least = None if guard == "off" else float(guard)
            settings = {**INITS[args.init], "schedule": {"min_separation": least}}
            for stream in [REFERENCE, *(name for name in args.streams if name != REFERENCE)]:
                rows, about = run(pools, STREAMS[stream], mllm, **settings)
                if stream == REFERENCE:
                    cuts = {
                        n: float(rows[n][rows["label"] == 0].double().quantile(0.95))
                        for n in ("neglabel", "ens", "ants")
                    }
                told.setdefault((stream, guard), []).append({**about, "agreement": agreement(rows)})
                for name, cut in cuts.items():
                    for window in [(0, len(rows["label"])), *WINDOWS.get(stream, ())]:
                        one = figures(rows, name, cut, slice(*window))
                        place = "all" if window == (0, len(rows["label"])) else window
                        found.setdefault((stream, place, guard, name), []).append(one)
    return found, told


def mean(found, name, digits=1):
    values = [one[name] for one in found]
    return "–" if any(v != v for v in values) else f"{statistics.mean(values):.{digits}f}"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def show(found, told, guards):
    """The tables; cells are NegLabel / ANTS with each guard."""
    streams = list(dict.fromkeys(stream for stream, *_ in found))

    def cell(stream, name, digits=1, window="all"):
        keys = [(guards[0], "neglabel"), *((guard, "ants") for guard in guards)]
        parts = [mean(found[stream, window, guard, score], name, digits) for guard, score in keys]
        return "–" if set(parts) == {"–"} else " / ".join(parts)

    print("Cells: neglabel / " + " / ".join(f"ants, guard {guard}" for guard in guards) + "\n")
    names = ("mean", "q5", "q50", "q95")
    table(["OOD score of ID images", *names], [[s, *(cell(s, n, 2) for n in names)] for s in streams])
    for side in ("accepted", "rejected"):
        names = [f"{side} {where}" for where in ("reference", "0.5", "Otsu")]
        table(
            [f"{'ID' if side == 'accepted' else 'OOD'} {side}, %", *(n.split()[1] for n in names)],
            [[s, *(cell(s, n) for n in names)] for s in streams],
        )
    table(["stream", "AUROC", "FPR95"], [[s, cell(s, "auroc"), cell(s, "fpr95")] for s in streams])
    windows = [(s, w) for s in streams for w in WINDOWS.get(s, ())]
    names = ("auroc", "accepted reference", "rejected reference", "accepted 0.5")
    table(
        ["stream", "images", *names],
        [[s, f"{w[0]}–{w[1]}", *(cell(s, n, 1, w) for n in names)] for s, w in windows],
    )
    rows = []
    for stream in streams:
        about = [told[stream, guard] for guard in guards]
        columns = [
            (n, d) for n, d in (("shown", 0), ("shown_id", 0), ("n_held", 0), ("lambda", 2), ("agreement", 0))
        ]
        rows.append(
            [
                stream,
                *(
                    " / ".join(mean([{"n_held": 0, **one} for one in a], n, d) for a in about)
                    for n, d in columns
                ),
            ]
        )
    table(
        ["stream", "images shown to the LLaVA", "of them ID, %", "sync points held", "λ", "agreement, %"],
        rows,
    )


def show_separation(args):
    """Quantiles of `separation` over draws of 1,000 images (the guard's window) by share of OOD images."""
    pools = Pools(args.seeds[0], args.root)
    model = ANTS(CLIP, class_names=ID_CLASSES, **SETTINGS["model"])
    worlds = {"demo": (model, {kind: pools.features[kind]["features"] for kind in KINDS})}
    if args.real:
        from real_features import SETS, Features, features, make_model

        file = np.load(args.real)
        sets = {
            "id": features(file, "imagenet_img"),
            **{name: features(file, key) for name, key in SETS.items()},
        }
        worlds["ViT-B/32"] = (make_model(file, class_names=Features.class_names), sets)
    shares, rows, g = (0, 1, 10, 25, 50, 90, 100), [], torch.Generator().manual_seed(0)
    for world, (model, sets) in worlds.items():
        model.setup("test")
        model.prepare()
        s = {
            name: torch.cat([model.score(part)["id_score"] for part in x.split(512)])
            for name, x in sets.items()
        }
        for name in list(s)[1:]:
            cells = []
            for percentage in shares:
                counts = {"id": 1000 - 10 * percentage, name: 10 * percentage}
                drawn = [
                    separation(
                        torch.cat(
                            [s[k][torch.randint(len(s[k]), (n,), generator=g)] for k, n in counts.items()]
                        )
                    )
                    for _ in range(60)
                ]
                low, middle, high = torch.tensor(drawn).quantile(torch.tensor([0.05, 0.5, 0.95]))
                cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
            rows.append([f"{world}, {name}", *cells])
    table(["separation, by share of OOD images", *(f"{p} %" for p in shares)], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[211, 212, 213])
    parser.add_argument("--guard", nargs="+", default=["off"], help="off, or a schedule.min_separation")
    parser.add_argument("--init", choices=INITS, default="empty")
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--root", default="runs/imbalance")
    parser.add_argument("--separation", action="store_true")
    parser.add_argument("--real", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    if args.separation:
        show_separation(args)
    else:
        show(*measure(args), args.guard)
