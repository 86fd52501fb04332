"""Results that the tests of the table are made of, and readers of its formats."""

import csv
import io
import re

from rich.console import Console

from ants_lightning.run.report import build_results
from ants_lightning.run.table import build_table


def score(auroc, fpr95, fpr95_openood, aupr_in=0.5, aupr_out=0.5):
    return dict(auroc=auroc, fpr95=fpr95, fpr95_openood=fpr95_openood, aupr_in=aupr_in, aupr_out=aupr_out)


def stream(group="near", accuracy=0.8, **scores):
    return {"group": group, "n_id": 600, "n_ood": 500, "id_accuracy": accuracy, "scores": scores}


def results(streams, seed=0, benchmark=None, model=None):
    return {**build_results(streams, seed), "benchmark": benchmark, "model": model}


def two_groups(seed=0, shift=0.0):
    return results(
        {
            "birds": stream("far", mcm=score(0.70 + shift, 0.6, 0.5), ants=score(0.80 + shift, 0.4, 0.2)),
            "dogs": stream("near", mcm=score(0.60 + shift, 0.8, 0.9), ants=score(0.90 + shift, 0.5, 0.3)),
            "cars": stream("far", mcm=score(0.80 + shift, 0.3, 0.2), ants=score(0.75 + shift, 0.3, 0.4)),
        },
        seed,
    )


MOS = ("iNaturalist", "SUN", "Places", "Textures")


def four_sets(names=MOS, benchmark="imagenet1k_mos", scores=("mcm", "ens", "ants"), **more):
    scores = {name: score(0.9, 0.3, 0.2) for name in scores}
    return results({name: stream("far", **scores) for name in names}, benchmark=benchmark, **more)


def shown(summary, metrics=("auroc", "fpr95", "fpr95_openood"), width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(build_table(summary, metrics, width))
    return console.file.getvalue()


def rich_cells(text):
    """The cells of each line of a rich table."""
    lines = [line.rstrip() for line in text.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in line[1:-1].split(line[0])] for line in lines]


def markdown_cells(text):
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def latex_cells(text):
    rows = [line.removesuffix(r"\\") for line in text.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def mixed(seed=0, sets=("near ones", "far ones")):
    run = results(
        {"mix": stream("mixed", mcm=score(0.7, 0.6, 0.5)), "dogs": stream("near", mcm=score(0.6, 0.8, 0.9))},
        seed,
    )
    parts = {"near ones": (0.65, "near"), "far ones": (0.85 + seed / 10, "far")}
    run["streams"]["mix"]["sets"] = {
        name: {"n_ood": 9, "group": parts[name][1], "scores": {"mcm": score(parts[name][0], 0.1, 0.2)}}
        for name in sets
    }
    return run
