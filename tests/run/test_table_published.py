"""Published figures beside the figures of a run."""

import pytest
from table_parts import MOS, csv_rows, four_sets, markdown_cells, results, score, shown, stream, two_groups

from ants_lightning.run.summary import summarise
from ants_lightning.run.table import to_csv, to_latex, to_markdown


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
