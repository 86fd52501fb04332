"""The table as rich text, Markdown, LaTeX and CSV."""

import io
import re

import pytest
from rich.console import Console
from table_parts import (
    csv_rows,
    four_sets,
    latex_cells,
    markdown_cells,
    mixed,
    results,
    rich_cells,
    score,
    shown,
    stream,
    two_groups,
)

from ants_lightning.run.results import METRICS
from ants_lightning.run.summary import summarise
from ants_lightning.run.table import build_table, to_csv, to_latex, to_markdown


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
