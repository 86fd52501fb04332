"""The table: columns, means over sets and seeds, and which runs are averaged."""

import pytest
from table_parts import csv_rows, four_sets, mixed, results, rich_cells, score, shown, stream, two_groups

from ants_lightning.run.results import METRICS
from ants_lightning.run.summary import summarise
from ants_lightning.run.table import to_csv


def column(summary, name):
    return next(column for column in summary.columns if column.name == name)


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
