"""The command `table`: what it reads, passes over and refuses."""

import io
import json
import os
import re
import unicodedata

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from table_parts import (
    csv_rows,
    four_sets,
    latex_cells,
    markdown_cells,
    results,
    rich_cells,
    score,
    shown,
    stream,
    two_groups,
)

from ants_lightning.common.text import one_line
from ants_lightning.run.results import read_results
from ants_lightning.run.summary import Value, summarise
from ants_lightning.run.table import main, show, to_csv, to_latex, to_markdown

NAN = float("nan")


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
