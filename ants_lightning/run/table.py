"""`ants-lightning table`: one run or several as a table, in rich text, Markdown, CSV or LaTeX."""

import argparse
import csv
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ants_lightning.common.text import one_line
from ants_lightning.run.results import METRICS, read_results
from ants_lightning.run.summary import Column, Summary, summarise

__all__ = ["build_table", "main", "read_results", "summarise", "to_csv", "to_latex", "to_markdown"]

Cell = list[tuple[str, bool]]  # a text for each metric, and whether it is the best of its column
DEFAULT = ("auroc", "fpr95", "fpr95_openood")
BEST = {"fpr95": min, "fpr95_openood": min}
FIELDS = (
    "run",
    "benchmark",
    "model",
    "pretrained",
    "kind",
    "name",
    "group",
    "score",
    "metric",
    "mean",
    "std",
    "n_seeds",
    "published",
    "source",
    "meaningless",
)
TEXTS = {*FIELDS} - {"kind", "metric", "mean", "std", "n_seeds", "published"}  # fields that hold names
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
    "–": "--",
    "±": r"$\pm$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def _grid(
    columns: Sequence[Column], scores: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, list[Cell]]]:
    """Title and cells, one a score, of each column; published figures follow their column."""
    grid = []
    for column in columns:
        sound = [values for score, values in column.values.items() if score not in column.meaningless]
        best = {m: BEST.get(m, max)((values[m].mean for values in sound), default=None) for m in metrics}
        cells: list[Cell] = []
        for score in scores:
            values = column.values.get(score)
            mark = "!" if score in column.meaningless else ""
            told = (
                [(f"{values[m]}{mark}", not mark and values[m].mean == best[m]) for m in metrics]
                if values
                else [("–", False)]
            )
            cells.append(told)
        grid.append((one_line(column.title), cells))
        figures = [column.published.get(score, {}) for score in scores]
        if any(m in figure for figure in figures for m in metrics):
            published: list[Cell] = [
                [(f"{figure[m]:.1f}" if m in figure else "–", False) for m in metrics] for figure in figures
            ]
            published = [
                cell if any(text != "–" for text, _ in cell) else [("–", False)] for cell in published
            ]
            grid.append(("published", published))
    return grid


def _scores(summary: Summary) -> list[str]:
    return list(dict.fromkeys(score for column in summary.columns for score in column.values))


def build_table(summary: Summary, metrics: Sequence[str] = DEFAULT, width: int = 120) -> Table:
    """Scores × streams and means, in percent, in blocks that fit `width`; then notes.

    The best of each column is bold.

    Above stands, in red, what makes figures meaningless; these have the mark `!` and are never the best.
    Names are shown as they are, but for control characters: nothing in them is taken for rich's markup.
    """
    outer = Table(
        box=None, show_header=False, pad_edge=False, padding=0, title=Text(one_line(summary.title(metrics)))
    )
    outer.add_column()
    for warning in summary.warnings:
        outer.add_row(Text(one_line(warning), "bold red"))
    for block in _blocks(summary, metrics, width):
        outer.add_row(_block(block, _scores(summary), metrics))
    for note in summary.notes:
        outer.add_row(Text(one_line(note)))
    return outer


def _blocks(summary: Summary, metrics: Sequence[str], width: int) -> list[list[Column]]:
    scores, console = _scores(summary), Console(width=100_000, file=io.StringIO())

    def fits(columns: list[Column]) -> bool:
        return Measurement.get(console, console.options, _block(columns, scores, metrics)).maximum <= width

    if fits(summary.columns):
        return [summary.columns]
    blocks: list[list[Column]] = []
    for column in summary.columns:
        begins_means = (
            column.kind in ("group", "mean") and blocks and blocks[-1][-1].kind in ("stream", "set")
        )
        if blocks and not begins_means and fits([*blocks[-1], column]):
            blocks[-1].append(column)
        else:
            blocks.append([column])
    return blocks


def _block(columns: Sequence[Column], scores: Sequence[str], metrics: Sequence[str]) -> Table:
    table, grid = Table(), _grid(columns, scores, metrics)
    for i, title in enumerate(("score", *(title for title, _ in grid))):
        table.add_column(Text(title), justify="right" if i else "left")
    for i, score in enumerate(scores):
        row = [
            Text(" / ").join(Text(text, "bold" if bold else "") for text, bold in cells[i])
            for _, cells in grid
        ]
        table.add_row(Text(one_line(score)), *row)
    return table


def to_markdown(summary: Summary, metrics: Sequence[str] = DEFAULT) -> str:
    """The table in GitHub's Markdown, with a heading and the notes as a list."""
    scores = _scores(summary)
    grid = _grid(summary.columns, scores, metrics)
    rows = [["score", *(_markdown(title) for title, _ in grid)], ["---", *("---:" for _ in grid)]]
    for i, score in enumerate(scores):
        cells = (
            " / ".join(f"**{text}**" if bold else text for text, bold in column[i]) for _, column in grid
        )
        rows.append([_markdown(score), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {_markdown(note)}" for note in (*summary.warnings, *summary.notes))
    return f"### {_markdown(summary.title(metrics))}\n\n{table}\n" + (notes and f"\n{notes}\n")


def _markdown(text: str) -> str:
    """Without markup, formulas, links and, at the start, marks of lists."""
    text = re.sub(r"([\\`*_\[\]<>|~&#$@]|(?<=[Ww])\.|:(?=//)|^[-+=])", r"\\\1", one_line(text))
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", text)


def to_latex(summary: Summary, metrics: Sequence[str] = DEFAULT) -> str:
    """The table as a `tabular` for `booktabs`; title and notes are comments."""
    scores = _scores(summary)
    grid = _grid(summary.columns, scores, metrics)
    told = (summary.title(metrics), "needs the package booktabs", *summary.warnings, *summary.notes)
    comments = [f"% {one_line(line)}" for line in told]
    rows = [" & ".join(["score", *(_latex(title) for title, _ in grid)])]
    for i, score in enumerate(scores):
        cells = (
            " / ".join(rf"\textbf{{{_latex(text)}}}" if bold else _latex(text) for text, bold in column[i])
            for _, column in grid
        )
        rows.append(" & ".join([_latex(score), *cells]))
    head, *body = (rf"{row} \\" for row in rows)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(grid)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*comments, *lines]) + "\n"


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))


def to_csv(summaries: Sequence[Summary], metrics: Sequence[str] = DEFAULT) -> str:
    """One row for each table, column, score and metric; `mean`, `std` and `published` in percent or empty.

    A text that a spreadsheet would take for a formula (`=`, `+`, `-` or `@` first) gets an apostrophe before
    it.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for i, summary in enumerate(summaries):
        run = {"run": "; ".join(summary.paths) or i, "benchmark": summary.benchmark, "model": summary.model}
        for column in summary.columns:
            of = {
                **run,
                "pretrained": summary.pretrained,
                "kind": column.kind,
                "name": column.name,
                "group": column.group,
            }
            for score, values in column.values.items():
                figures = column.published.get(score, {})
                for metric in metrics:
                    mean, std, n = values[metric]
                    row = {**of, "score": score, "metric": metric, "mean": f"{100 * mean:.4f}", "n_seeds": n}
                    row |= {"std": f"{100 * std:.4f}"} if std is not None else {}
                    row |= {"meaningless": True} if score in column.meaningless else {}
                    row |= (
                        {"published": figures[metric], "source": figures["source"]}
                        if metric in figures
                        else {}
                    )
                    writer.writerow(
                        {field: _cell(value) if field in TEXTS else value for field, value in row.items()}
                    )
    return out.getvalue()


def _cell(text: Any) -> str:
    text = one_line(str(text))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def show(summaries: Sequence[Summary], form: str, metrics: Sequence[str], console: Console) -> None:
    """Write the tables to the console: `rich` in its width; `markdown`, `csv` and `latex` as they are."""
    if form == "rich":
        for summary in summaries:
            console.print(build_table(summary, metrics, console.width))
    elif form == "csv":
        console.file.write(to_csv(summaries, metrics))
    else:
        render = to_markdown if form == "markdown" else to_latex
        console.file.write("\n".join(render(summary, metrics) for summary in summaries))


def main(argv: Sequence[str] | None = None) -> None:
    """The command `ants-lightning table`; what is wrong with a path is told and ends it with status 2."""
    parser = argparse.ArgumentParser(
        "ants-lightning table", description="The results of one run or several as a table."
    )
    parser.add_argument(
        "paths",
        nargs="+",
        help="results.json files, or run folders that hold one; several seeds are averaged",
    )
    parser.add_argument("--format", choices=("rich", "markdown", "csv", "latex"), default="rich")
    parser.add_argument("--output", type=Path, help="a file to write, instead of showing the table")
    parser.add_argument("--metrics", nargs="+", choices=list(METRICS), default=list(DEFAULT))
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # what is passed over, to stderr
    metrics = list(dict.fromkeys(args.metrics))
    try:
        summaries = summarise(read_results(args.paths))
        if args.output is None:
            return show(summaries, args.format, metrics, Console())
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("w", encoding="utf-8", newline="") as file:
            show(summaries, args.format, metrics, Console(file=file, width=120))
    except (OSError, ValueError) as error:
        parser.error(one_line(str(error)))
