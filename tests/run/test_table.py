"""The table: figures, means over sets and seeds, published figures, four formats."""

import csv
import io
import json
import os
import re
import unicodedata

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from ants_lightning.common.text import one_line
from ants_lightning.run.report import build_results
from ants_lightning.run.summary import METRICS, Value, read_results, summarise
from ants_lightning.run.table import build_table, main, show, to_csv, to_latex, to_markdown

NAN = float("nan")


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


def column(summary, name):
    return next(column for column in summary.columns if column.name == name)


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


# ---- figures


def test_columns_are_the_streams_then_near_far_and_the_mean_over_all_streams():
    (summary,) = summarise([two_groups()])
    assert [(c.kind, c.title) for c in summary.columns] == [
        ("stream", "birds (far)"),
        ("stream", "dogs (near)"),
        ("stream", "cars (far)"),
        ("group", "near"),
        ("group", "far"),
        ("mean", "mean"),
    ]
    assert column(summary, "near").values == column(summary, "dogs").values
    assert column(summary, "far").values["mcm"]["auroc"].mean == pytest.approx(0.75)
    assert column(summary, "far").values["ants"]["fpr95_openood"].mean == pytest.approx(0.3)
    assert column(summary, "mean").values["mcm"]["auroc"].mean == pytest.approx(
        (0.7 + 0.6 + 0.8) / 3
    )  # not of the groups' means
    assert column(summary, "mean").values["ants"]["fpr95"] == (pytest.approx(0.4), None, 1)


def test_means_of_one_run_are_the_groups_of_its_results():
    run = two_groups()
    (summary,) = summarise([run])
    for group, scores in run["groups"].items():
        for name, values in scores.items():
            assert {m: column(summary, group).values[name][m].mean for m in METRICS} == pytest.approx(values)


@pytest.mark.parametrize(
    ("groups", "means"),
    [
        (["near"], []),
        (["far", "far"], ["far", "mean"]),
        (["ood", "ood"], ["mean"]),
        (["ood", "near"], ["near", "ood", "mean"]),
    ],
)
def test_only_the_means_that_there_are(groups, means):
    (summary,) = summarise(
        [results({f"s{i}": stream(group, mcm=score(0.7, 0.6, 0.5)) for i, group in enumerate(groups)})]
    )
    assert [c.name for c in summary.columns if c.kind != "stream"] == means


def test_three_seeds_are_mean_and_sample_standard_deviation_by_hand():
    # birds, ants: 80, 82, 87: mean 83, deviations -3, -1, 4: sqrt((9 + 1 + 16) / 2) = sqrt(13) = 3.6056.
    (summary,) = summarise([two_groups(0), two_groups(5, 0.02), two_groups(7, 0.07)])
    assert summary.seeds == [0, 5, 7]
    assert column(summary, "birds").values["ants"]["auroc"] == pytest.approx((0.83, 0.13**0.5 / 10, 3))
    assert column(summary, "birds").values["ants"]["fpr95"] == pytest.approx((0.4, 0, 3))
    assert column(summary, "far").values["ants"]["auroc"] == pytest.approx((0.805, 0.13**0.5 / 10, 3))
    cells = [f"{mean} ± 3.6" for mean in ("83.0", "93.0", "78.0", "93.0", "80.5", "84.7")]
    assert ["ants", *cells] in rich_cells(shown(summary, ["auroc"]))
    assert summary.notes[0] == "3 seeds (0, 5, 7): mean ± sample standard deviation"
    assert "dogs: ID accuracy 80.0 ± 0.0 %" in summary.notes


def test_the_deviation_of_a_mean_is_that_of_the_means_of_the_seeds():
    # Per seed the far mean is (70 + 80) / 2 and (80 + 70) / 2: no deviation, though both streams have one.
    runs = []
    for seed, (a, b) in enumerate([(0.7, 0.8), (0.8, 0.7)]):
        runs.append(
            results({"a": stream("far", mcm=score(a, 0, 0)), "b": stream("far", mcm=score(b, 0, 0))}, seed)
        )
    (summary,) = summarise(runs)
    assert column(summary, "a").values["mcm"]["auroc"] == pytest.approx((0.75, 0.005**0.5, 2))
    assert column(summary, "far").values["mcm"]["auroc"] == pytest.approx((0.75, 0, 2))


def test_runs_of_another_model_benchmark_or_stream_are_tables_of_their_own_in_order():
    of = dict(scores=["ants"], names=["SUN"])
    b16, b32 = {"name": "ViT-B-16", "pretrained": "openai"}, {"name": "ViT-B-32", "pretrained": "openai"}
    runs = [
        four_sets(model=b16, **of),
        four_sets(model=b32, **of),
        four_sets(model=b16, seed=1, **of),
        four_sets(benchmark="mine", model=b16, **of),
        four_sets(names=["SUN", "Places"], model=b16, scores=["ants"]),
        two_groups(1),
    ]
    found = summarise(runs)
    assert [(s.model, s.benchmark, s.seeds) for s in found] == [
        ("ViT-B-16", "imagenet1k_mos", [0, 1]),
        ("ViT-B-32", "imagenet1k_mos", [0]),
        ("ViT-B-16", "mine", [0]),
        ("ViT-B-16", "imagenet1k_mos", [0]),
        ("", "", [1]),
    ]
    assert (
        found[0].title(["auroc"]) == "imagenet1k_mos, ViT-B-16 (openai): AUROC, %"
        and found[4].title(["fpr95"]) == "FPR95, %"
    )


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1, 1), (0, None)])
def test_runs_that_differ_by_more_than_their_seed_are_not_averaged(seeds):
    assert [s.seeds for s in summarise([two_groups(seed) for seed in seeds])] == [[seed] for seed in seeds]


def test_runs_of_other_settings_are_not_averaged_and_told_apart():
    runs = []
    for seed, eta in ((0, 0.5), (1, 0.5), (2, 0.25)):
        memory = {"mining": {"eta": eta}, "vsnl": {"delta": 0.08}}
        runs.append({**two_groups(seed), "settings": {"memory": memory, "csp": {"seed": seed}}})
    found = summarise(runs)
    notes = [(s.seeds, s.notes[-1]) for s in found]
    assert notes == [([0, 1], "settings: memory.mining.eta 0.5"), ([2], "settings: memory.mining.eta 0.25")]
    assert not [note for s in summarise(runs[:2]) for note in s.notes if "settings" in note]


def test_streams_of_another_size_are_not_averaged():
    small = two_groups(1)
    small["streams"]["dogs"]["n_ood"] = 10
    assert len(summarise([two_groups(0), small])) == 2


@pytest.mark.parametrize(
    ("name", "streams"), [("birds", ["–", "60.0", "80.0"]), ("cars", ["70.0", "60.0", "–"])]
)
def test_a_score_that_a_stream_lacks_is_a_dash_and_in_no_mean_with_it(name, streams):
    run = two_groups()
    del run["streams"][name]["scores"]["mcm"]
    (summary,) = summarise([run])
    assert ["mcm", *streams, "60.0", "–", "–"] in rich_cells(shown(summary, ["auroc"]))
    assert not [
        row
        for row in csv_rows(to_csv([summary]))
        if row["score"] == "mcm" and row["name"] in (name, "far", "mean")
    ]


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


def test_ood_sets_of_a_mixed_stream_are_columns_after_it_and_in_no_mean():
    (summary,) = summarise([mixed()])
    titles = [
        "mix (mixed)",
        "mix: near ones (near)",
        "mix: far ones (far)",
        "dogs (near)",
        "near",
        "mixed",
        "mean",
    ]
    assert [c.title for c in summary.columns] == titles
    assert ["mcm", "70.0", "65.0", "85.0", "60.0", "60.0", "70.0", "65.0"] in rich_cells(
        shown(summary, ["auroc"])
    )
    kinds = [row["kind"] for row in csv_rows(to_csv([summary], ["auroc"]))]
    assert kinds == ["stream", "set", "set", "stream", "group", "group", "mean"]


def test_a_set_that_came_in_some_seeds_only_is_averaged_over_those():
    (summary,) = summarise([mixed(0), mixed(1, ["near ones"]), mixed(2)])
    assert column(summary, "mix: near ones").values["mcm"]["auroc"].n == 3
    assert column(summary, "mix: far ones").values["mcm"]["auroc"] == pytest.approx(
        (0.95, 0.02**0.5, 2)
    )  # 85 and 105


# ---- published figures


def test_published_figures_stand_beside_the_same_set_alone():
    (summary,) = summarise([four_sets()])
    head, _, mcm, ens, ants = markdown_cells(to_markdown(summary))
    assert head == [
        "score",
        "iNaturalist (far)",
        "published",
        "SUN (far)",
        "published",
        "Places (far)",
        "published",
        "Textures (far)",
        "published",
        "far",
        "mean",
        "published",
    ]
    of_mcm, of_ants = [[*row[2:9:2], row[-1]] for row in (mcm, ants)]
    assert of_mcm == [
        "94.6 / 30.9 / –",
        "92.6 / 37.6 / –",
        "89.8 / 44.7 / –",
        "86.1 / 57.8 / –",
        "90.8 / 42.7 / –",
    ]
    assert of_ants == [
        "99.8 / – / 0.5",
        "98.8 / – / 5.4",
        "96.1 / – / 20.2",
        "96.4 / – / 18.5",
        "97.8 / – / 11.2",
    ]
    assert ens[2] == "–"


def test_published_figures_are_as_printed():
    rows = csv_rows(to_csv(summarise([four_sets(scores=["mcm", "neglabel", "tanl", "ants"])])))
    published = {(r["name"], r["score"], r["metric"]): r["published"] for r in rows if r["published"]}
    of_ants = dict(
        zip(
            (*MOS, "mean"),
            [(99.75, 0.54), (98.77, 5.43), (96.10, 20.21), (96.38, 18.52), (97.75, 11.20)],
            strict=True,
        )
    )
    for name, wanted in of_ants.items():
        assert (
            tuple(float(published.pop((name, "ants", metric))) for metric in ("auroc", "fpr95_openood"))
            == wanted
        )
    assert published.pop(("mean", "tanl", "fpr95_openood")) == "9.8"
    with_id_positive = {
        (name, of, metric) for name in of_ants for of in ("mcm", "neglabel") for metric in ("auroc", "fpr95")
    }
    assert set(published) == with_id_positive
    for of in ("mcm", "neglabel"):  # their means are the means of their sets
        for metric in ("auroc", "fpr95"):
            sets = [float(published[name, of, metric]) for name in of_ants if name != "mean"]
            assert sum(sets) / 4 == pytest.approx(float(published["mean", of, metric]), abs=0.0051)
    assert all(bool(row["source"]) == bool(row["published"]) for row in rows)


@pytest.mark.parametrize(
    "run",
    [
        four_sets(benchmark=None),
        four_sets(benchmark="imagenet1k"),
        four_sets(["inaturalist", "sun"]),
        four_sets(["near", "mean"]),
        four_sets(scores=["ens", "vsnl"]),
        two_groups(),
    ],
)
def test_no_published_column_for_another_benchmark_set_or_score(run):
    (summary,) = summarise([run])
    assert not any(c.published for c in summary.columns)
    assert "published" not in shown(summary) + to_markdown(summary) + to_latex(summary)


def test_a_published_mean_needs_all_its_sets():
    (summary,) = summarise([four_sets(["iNaturalist", "SUN"])])
    assert [c.name for c in summary.columns if c.published] == ["iNaturalist", "SUN"]


def openood(near, far):
    scores = {"neglabel": score(0.7, 0.7, 0.6), "ants": score(0.8, 0.6, 0.5)}
    groups = {**dict.fromkeys(near, "near"), **dict.fromkeys(far, "far")}
    return results({name: stream(group, **scores) for name, group in groups.items()}, benchmark="imagenet1k")


NEAR, FAR = ["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]


def test_published_means_of_openood():
    (summary,) = summarise([openood(NEAR, FAR)])
    figures = {(c.name, of): f for c in summary.columns for of, f in c.published.items()}
    assert {key: (f.get("auroc"), f["fpr95_openood"]) for key, f in figures.items()} == {
        ("near", "neglabel"): (None, 68.36),
        ("near", "ants"): (82.15, 60.98),
        ("far", "neglabel"): (None, 17.48),
        ("far", "ants"): (96.50, 15.38),
    }
    for near in (NEAR[:1], ["ninco", "mine"], [*NEAR, "mine"]):
        assert [c.name for c in summarise([openood(near, FAR)])[0].columns if c.published] == ["far"]


def test_the_note_tells_the_published_model_and_another_one_of_the_run():
    told = [
        next(note for note in summarise([four_sets(model=model)])[0].notes if "published" in note)
        for model in (
            None,
            {"name": "ViT-B-16-quickgelu", "pretrained": "openai"},
            {"name": "ViT-B-16", "pretrained": "laion2b"},
        )
    ]
    assert (
        told[0] == told[1]
        and "CLIP ViT-B/16" in told[0]
        and "NeurIPS 2022" in told[0]
        and "this run" not in told[0]
    )
    assert "(this run: ViT-B-16, laion2b)" in told[2]


def test_a_published_column_without_the_metrics_asked_for_is_left_out():
    assert "published |" not in to_markdown(summarise([four_sets()])[0], ["aupr_in"])


# ---- formats


def test_all_formats_tell_the_same_cells():
    (summary,) = summarise([four_sets(names=["SUN"])])
    dash = {"mcm": "92.6 / 37.6 / –", "ens": "–", "ants": "98.8 / – / 5.4"}
    wanted = [
        ["score", "SUN (far)", "published"],
        *([name, "90.0 / 30.0 / 20.0", dash[name]] for name in dash),
    ]
    assert rich_cells(shown(summary)) == wanted
    head, ruler, *rows = markdown_cells(to_markdown(summary).replace("**", ""))
    assert [head, *rows] == wanted and ruler == ["---", "---:", "---:"]
    latex = [
        [re.sub(r"\\textbf{(.*?)}", r"\1", cell).replace("--", "–") for cell in row]
        for row in latex_cells(to_latex(summary))
    ]
    assert latex == wanted
    rows = csv_rows(to_csv([summary]))
    cells = [" / ".join(f"{float(row['mean']):.1f}" for row in rows if row["score"] == name) for name in dash]
    assert cells == ["90.0 / 30.0 / 20.0"] * 3


def test_the_best_of_a_column_is_bold_for_each_metric():
    scores = dict(
        mcm=score(0.9, 0.3, 0.5, 0.1, 0.2),
        ens=score(0.8, 0.2, 0.6, 0.3, 0.1),
        ants=score(0.9, 0.4, 0.4, 0.2, 0.1),
    )
    (summary,) = summarise([results({"a": stream(**scores)})])
    cells = [row[1] for row in markdown_cells(to_markdown(summary, list(METRICS)))[2:]]
    assert cells[0] == "**90.0** / 30.0 / 50.0 / 10.0 / **20.0**"
    assert cells[1] == "80.0 / **20.0** / 60.0 / **30.0** / 10.0"
    assert cells[2] == "**90.0** / 40.0 / **40.0** / 20.0 / 10.0"
    assert latex_cells(to_latex(summary))[1][1] == r"\textbf{90.0} / 30.0 / 50.0"
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    console.print(build_table(summary))
    assert "\x1b[1m90.0\x1b[0m / 30.0 / 50.0" in console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 250])
def test_a_rich_table_that_is_too_wide_comes_in_blocks_and_loses_nothing(width):
    (summary,) = summarise([four_sets()])
    text = shown(summary, width=width)
    assert max(map(len, text.splitlines())) <= width
    head = [cell for row in rich_cells(text) if row[0] == "score" for cell in row[1:]]
    assert head == markdown_cells(to_markdown(summary))[0][1:]
    ants = [cell for row in rich_cells(text) if row[0] == "ants" for cell in row[1:]]
    assert ants == markdown_cells(to_markdown(summary).replace("**", ""))[-1][1:]
    assert (
        text.count("┏") == {60: 6, 80: 5, 120: 3, 250: 1}[width]
    )  # a set and its published figures stay together


def test_streams_and_means_are_not_in_one_block_unless_all_are():
    (summary,) = summarise([two_groups()])
    heads = {
        width: [row[1:] for row in rich_cells(shown(summary, width=width)) if row[0] == "score"]
        for width in (120, 140)
    }
    assert heads[120] == [["birds (far)", "dogs (near)", "cars (far)"], ["near", "far", "mean"]]
    assert heads[140] == [["birds (far)", "dogs (near)", "cars (far)", "near", "far", "mean"]]


def test_the_notes_of_one_run_tell_its_adaptation():
    run = two_groups()
    told = {
        "lambda": 0.526,
        "lambda_paper": 0.61,
        "gamma": 0.1234,
        "n_ens": 34,
        "n_vsnl": 5,
        "mllm_seconds": 1.26,
    }
    run["streams"]["birds"] |= told
    note = (
        "birds: 600 ID, 500 OOD images, ID accuracy 80.0%, λ 0.53, λ of eq. 14 0.61, λ prequential 0.50, γ "
        "0.123, 0 negative images, 34 ENS, 5 VSNL, 0 dropped, MLLM: 0 asked, 0 recalled, 0 failed, 1.3 s"
    )
    (summary,) = summarise([run])
    assert note in summary.notes
    for text in (shown(summary, width=250), to_latex(summary), to_markdown(summary)):
        assert note in text


HOSTILE = "[red]a_b[/red] | 50% & #1 {x} \\ ~ ^ $y$ *z* :smile: <b>"


def test_names_are_shown_as_they_are():
    model = {"name": "[blink]m", "pretrained": HOSTILE}
    streams = {HOSTILE: stream("[bold]near", **{"[b]": score(0.7, 0.6, 0.5)})}
    (summary,) = summarise([results(streams, model=model, benchmark="[/]")])
    text = shown(summary, width=250)
    assert f"{HOSTILE} ([bold]near)" in text and "[b]" in text and f"[/], [blink]m ({HOSTILE})" in text
    ((head, name), (_, _), (row, cell)) = markdown_cells(to_markdown(summary))
    assert re.sub(r"\\(.)", r"\1", name) == f"{HOSTILE} ([bold]near)" and (head, row, cell.count("**")) == (
        "score",
        r"\[b\]",
        6,
    )
    assert csv_rows(to_csv([summary]))[0]["name"] == HOSTILE


def test_latex_escapes_each_special_character():
    (summary,) = summarise([results({HOSTILE: stream(**{"[*]": score(0.7, 0.6, 0.5)})})])
    text = to_latex(summary)
    (_, name), (row, _) = latex_cells(text)
    assert name == (
        r"{[}red]a\_b{[}/red] \textbar{} 50\% \& \#1 \{x\} \textbackslash{} \textasciitilde{} "
        r"\textasciicircum{} \$y\$ {*}z{*} "
        r":smile: \textless{}b\textgreater{} (near)"
    )
    assert row == "{[}{*}]"  # after \\ a bare one would be its argument
    assert all(line.startswith(("%", "\\", "score", "{[}")) for line in text.splitlines())


def test_latex_has_as_many_columns_as_it_says():
    for run in (four_sets(), two_groups(), mixed()):
        text = to_latex(summarise([run, {**run, "seed": 1}])[0])
        (spec,) = re.findall(r"\\begin{tabular}{(l r*|lr*)}", text)
        assert {len(row) for row in latex_cells(text)} == {len(spec)}
        assert r"$\pm$" in text and "±" not in "".join(
            line for line in text.splitlines() if not line.startswith("%")
        )
        assert [
            text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
        ] == [1] * 4


def test_csv_is_one_row_for_each_table_column_score_and_metric():
    runs = [
        two_groups(),
        two_groups(1, 0.02),
        four_sets(names=["SUN"], model={"name": "m", "pretrained": None}),
    ]
    rows = csv_rows(to_csv(summarise(runs), list(METRICS)))
    assert len(rows) == 6 * 2 * 5 + 1 * 3 * 5
    assert len({(r["run"], r["name"], r["score"], r["metric"]) for r in rows}) == len(rows)
    of = {(r["name"], r["score"], r["metric"]): r for r in rows}
    birds = of["birds", "mcm", "auroc"]
    wanted = {"mean": "71.0000", "std": "1.4142", "n_seeds": "2", "group": "far", "published": ""}
    assert {key: birds[key] for key in wanted} == wanted
    sun = of["SUN", "ants", "fpr95_openood"]
    assert (sun["mean"], sun["std"], sun["n_seeds"], sun["published"], sun["model"]) == (
        "20.0000",
        "",
        "1",
        "5.43",
        "m",
    )
    assert (
        sun["benchmark"] == "imagenet1k_mos"
        and "ANTS" in sun["source"]
        and of["far", "mcm", "fpr95"]["kind"] == "group"
    )


# ---- the command


def save(folder, run):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(run), encoding="utf-8")
    return str(folder)


def test_run_folders_and_files_are_read(tmp_path):
    a, b = save(tmp_path / "a", two_groups()), save(tmp_path / "b", two_groups(1))
    found = read_results([a, tmp_path / "b" / "results.json"])
    assert [{k: v for k, v in run.items() if k != "path"} for run in found] == [two_groups(), two_groups(1)]
    assert (
        summarise(found)[0].paths == [a, f"{b}/results.json"]
        and summarise(found)[0].notes[-1] == f"from {a}, {b}/results.json"
    )


@pytest.mark.parametrize("form", ["rich", "markdown", "csv", "latex"])
def test_the_command_shows_and_writes(form, tmp_path, capsys):
    paths = [
        save(tmp_path / "a", two_groups()),
        save(tmp_path / "b", two_groups(1)),
        save(tmp_path / "c", four_sets()),
    ]
    main([*paths, "--format", form, "--metrics", "auroc", "aupr_in", "auroc"])
    out = capsys.readouterr().out
    assert "birds" in out and "iNaturalist" in out and (form == "csv" or "AUROC / AUPR-in, %" in out)
    file = tmp_path / "new" / "table.txt"
    main([*paths, "--format", form, "--metrics", "auroc", "aupr_in", "--output", str(file)])
    wanted = Console(file=io.StringIO(), width=120)
    show(summarise(read_results(paths)), form, ["auroc", "aupr_in"], wanted)
    assert file.read_text(encoding="utf-8") == wanted.file.getvalue()
    assert capsys.readouterr().out == ""
    if form == "csv":
        assert out == wanted.file.getvalue() and len(csv_rows(out)) == (6 * 2 + 6 * 3) * 2


def without(*keys):
    run = two_groups()
    of = run
    for key in keys[:-1]:
        of = of[key]
    del of[keys[-1]]
    return run


def with_values(*keys, value):
    run = two_groups()
    of = run
    for key in keys[:-1]:
        of = of[key]
    of[keys[-1]] = value
    return run


BAD = {
    "has no streams": with_values("streams", value={}),
    "it has no `streams`": without("streams"),
    "no results.json": [1],
    "stream 'dogs' has no group": without("streams", "dogs", "group"),
    "stream 'dogs' has no scores": without("streams", "dogs", "scores"),
    "stream 'cars' has no scores": with_values("streams", "cars", "scores", value={}),
    "stream 'dogs': fpr95 of score 'ants' is None": without("streams", "dogs", "scores", "ants", "fpr95"),
    "stream 'dogs': auroc of score 'mcm' is '1'": with_values(
        "streams", "dogs", "scores", "mcm", "auroc", value="1"
    ),
    "stream 'dogs': auroc of score 'mcm' is nan": with_values(
        "streams", "dogs", "scores", "mcm", "auroc", value=NAN
    ),
    "stream 'dogs': auroc of score 'mcm' is None": with_values("streams", "dogs", "scores", "mcm", value=3),
    "sets of stream 'dogs' are [1]": with_values("streams", "dogs", "sets", value=[1]),
    "set 'x' of stream 'dogs' has no scores": with_values(
        "streams", "dogs", "sets", value={"x": {"n_ood": 1}}
    ),
    "model is 'ViT'": with_values("model", value="ViT"),
    "benchmark is ['a']": with_values("benchmark", value=["a"]),
    "seed is 'x'": with_values("seed", value="x"),
    "settings is [1]": with_values("settings", value=[1]),
    "settings of 'model' are 3": with_values("settings", value={"model": 3}),
}


@pytest.mark.parametrize("match", BAD)
def test_results_of_another_form_are_named(match, tmp_path):
    good, bad = save(tmp_path / "good", two_groups()), save(tmp_path / "bad", BAD[match])
    with pytest.raises(ValueError, match=f"{re.escape(bad)}.*{re.escape(match)}"):
        read_results([good, bad])


def test_old_results_without_benchmark_model_and_adaptation_are_read(tmp_path):
    run = {"streams": {"a": {"group": "near", "scores": {"mcm": score(0.7, 0.6, 0.5)}}}}
    (summary,) = summarise(read_results([save(tmp_path / "old", run)]))
    assert ["mcm", "70.0 / 60.0 / 50.0"] in rich_cells(shown(summary)) and summary.notes == [
        f"from {tmp_path}/old"
    ]


def test_bad_paths_end_the_command_with_their_name_and_status_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("auroc: 1")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    cases = {
        "empty": "no results: .*empty has no results.json",
        "none": "no such file.*none",
        "text.json": "text.json is not JSON",
    }
    for path, match in {**cases, "bytes.json": "bytes.json is not JSON"}.items():
        with pytest.raises(ValueError, match=match):
            read_results([tmp_path / path])
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path / path)])
        assert re.search(match, capsys.readouterr().err.replace("\n", " "))
    with pytest.raises(ValueError, match="at least one"):
        read_results([])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main([save(tmp_path / "good", two_groups()), "--output", str(tmp_path / "file" / "table.csv")])
    assert "file" in capsys.readouterr().err


def test_what_else_is_in_the_folder_of_runs_is_passed_over_with_a_note(tmp_path, capsys, caplog):
    good = save(tmp_path / "own data", two_groups())
    (tmp_path / "text_cache" / "0a1b").mkdir(parents=True)
    (tmp_path / "table.tex").write_text("% a table")
    (tmp_path / "notes.json").write_text('{"a": 1}')
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    (tmp_path / "red\x1b[31m").mkdir()
    os.mkfifo(tmp_path / "pipe")
    main([str(path) for path in sorted(tmp_path.iterdir())])
    assert "birds" in capsys.readouterr().out
    told = sorted(record.getMessage().removeprefix(f"passed over: {tmp_path}/") for record in caplog.records)
    assert told == [
        "latest is no file",
        "notes.json is no results.json: it has no `streams`",
        "pipe is no file",
        "red [31m has no results.json",
        "table.tex is not JSON: Expecting value: line 1 column 1 (char 0)",
        "text_cache has no results.json",
    ]
    assert [run["path"] for run in read_results([tmp_path / "text_cache", good])] == [good]
    with pytest.raises(
        ValueError, match=r"no results: .*table.tex is not JSON.*; .*text_cache has no results.json"
    ):
        read_results([tmp_path / "table.tex", tmp_path / "text_cache"])
    with pytest.raises(ValueError, match=r"no such file: .*missing"):
        read_results([good, tmp_path / "missing"])


def test_a_torn_results_json_is_not_passed_over(tmp_path):
    good = save(tmp_path / "good", two_groups())
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "results.json").write_text('{"streams": {')
    with pytest.raises(ValueError, match=r"torn/results.json is not JSON"):
        read_results([good, tmp_path / "torn"])


def test_lists_of_one_length_are_other_settings_and_caches_are_none():
    def run(seed, nouns, cache):
        return {
            **two_groups(seed),
            "settings": {
                "model": {"negatives": {"nouns": nouns}, "text_cache": cache, "text_batch_size": seed + 1}
            },
        }

    runs = [
        run(0, "41 (sha256 1a2b3c4d)", "a"),
        run(1, "41 (sha256 1a2b3c4d)", "b"),
        run(2, "41 (sha256 00000000)", "a"),
    ]
    found = summarise(runs)
    assert [s.seeds for s in found] == [[0, 1], [2]]
    assert found[1].notes[-1] == 'settings: model.negatives.nouns "41 (sha256 00000000)"'


EVIL = "=1+1\x1b[31m\r\n\x00| <i> \\item $x$ [a](http://b.c) www.d.e @f \u202e1. g"


@pytest.mark.parametrize(
    "name", [EVIL, "@" + EVIL, "-1 x", "+1", "12. x", "1) x", "- x", "=====", "\x07", " # x", "\u2028|"]
)
def test_nothing_in_a_name_does_anything_in_any_format(name):
    run = results(
        {name: stream(**{name: score(0.7, 0.6, 0.5)})},
        benchmark=name,
        model={"name": name, "pretrained": name},
    )
    (summary,) = summarise([run])
    shown_name = one_line(name)
    texts = {
        "rich": shown(summary, width=900),
        "csv": to_csv([summary]),
        "tex": to_latex(summary),
        "md": to_markdown(summary),
    }
    for text in texts.values():
        assert not {c for c in text if unicodedata.category(c)[0] == "C"} - {"\n"} and "\u2028" not in text
    assert f" {shown_name}" in texts["rich"]
    rows = csv_rows(texts["csv"])
    assert len(rows) == 3 and all(None not in row for row in rows)
    for row in rows:
        assert row["name"].removeprefix("'") == shown_name and not row["name"].startswith(
            ("=", "+", "-", "@")
        )
        assert row["score"].removeprefix("'") == shown_name and row["mean"] in (
            "70.0000",
            "60.0000",
            "50.0000",
        )
    assert (
        {len(row) for row in markdown_cells(texts["md"])}
        == {len(row) for row in latex_cells(texts["tex"])}
        == {2}
    )
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(texts["md"])
    kinds = {token.type for token in tokens} | {
        child.type for token in tokens for child in token.children or ()
    }
    assert not kinds & {
        "link_open",
        "image",
        "html_inline",
        "ordered_list_open",
        "code_inline",
        "em_open",
        "hr",
        "html_block",
    }
    assert sum(token.type == "bullet_list_open" for token in tokens) == 1 and not re.search(
        r"(?<!\\)(\$|://)", texts["md"]
    )


def test_value_in_percent():
    assert (str(Value(0.9412, None, 1)), str(Value(1.0, 0.0049, 3))) == ("94.1", "100.0 ± 0.5")
