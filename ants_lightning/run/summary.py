"""Results of test runs, averaged over seeds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ants_lightning.run.results import METRICS

Scores = dict[str, dict[str, float]]  # a metric by score and metric, as in results.json
IDLE = ("model.text_cache", "model.text_batch_size")  # settings that change no result
PUBLISHED_MODELS = (("ViT-B-16-quickgelu", "openai"), ("ViT-B-16", "openai"))
NOTES = {
    "n_id": "{:.0f} ID",
    "n_ood": "{:.0f} OOD images",
    "id_accuracy": "ID accuracy {:.1%}",
    "lambda": "λ {:.2f}",
    "lambda_paper": "λ of eq. 14 {:.2f}",
    "lambda_prequential": "λ prequential {:.2f}",
    "gamma": "γ {:.3f}",
    "n_negative_images": "{:.0f} negative images",
    "n_ens": "{:.0f} ENS",
    "n_vsnl": "{:.0f} VSNL",
    "n_dropped": "{:.0f} dropped",
    "mllm_calls": "MLLM: {:.0f} asked",
    "mllm_recalled": "{:.0f} recalled",
    "mllm_failures": "{:.0f} failed",
    "mllm_seconds": "{:.1f} s",
}


class Value(NamedTuple):
    """A metric over the seeds, as a fraction: mean, sample standard deviation (None for one seed), number."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.mean:.1f}" + ("" if self.std is None else f" ± {100 * self.std:.1f}")


@dataclass(frozen=True)
class Column:
    """What a column is of: a `stream`, a `set` in a mixed stream, a `group`, or all streams (`mean`)."""

    kind: str
    name: str
    group: str
    values: dict[str, dict[str, Value]]  # by score and metric
    published: dict[str, dict[str, Any]]  # by score: percent by metric, and `source`
    meaningless: frozenset[str] = frozenset()  # scores whose figures mean nothing, as `Summary.warnings` say

    @property
    def title(self) -> str:
        """What stands above the column."""
        return f"{self.name} ({self.group})" if self.kind in ("stream", "set") else self.name


@dataclass(frozen=True)
class Summary:
    """Runs that differ by their seed alone, as one table."""

    benchmark: str
    model: str
    pretrained: str
    seeds: list[int | None]
    columns: list[Column]
    notes: list[str]
    paths: list[str]
    warnings: list[str] = field(default_factory=list)  # what makes figures meaningless

    def title(self, metrics: Sequence[str]) -> str:
        """What stands above the table."""
        model = f"{self.model} ({self.pretrained})" if self.pretrained else self.model
        of = ", ".join(filter(None, (self.benchmark, model)))
        return (of and f"{of}: ") + " / ".join(METRICS[metric] for metric in metrics) + ", %"


def summarise(runs: Sequence[dict[str, Any]]) -> list[Summary]:
    """Group the runs that differ only by seed, in order, and average each group.

    A seed that comes twice in a group shows that its runs differ otherwise too: then each of them is a
    summary of its own. A note tells the settings in which several summaries differ.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        streams = [[name, s["group"], s.get("n_id"), s.get("n_ood")] for name, s in run["streams"].items()]
        same = [run.get("benchmark"), run.get("model"), _settings(run), streams]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    parts = []
    for group in groups.values():
        seeds = {run.get("seed") for run in group}
        parts += [group] if len(seeds) == len(group) and None not in seeds else [[run] for run in group]
    settings = [_settings(part[0]) for part in parts]
    unlike = [
        key
        for key in dict.fromkeys(key for s in settings for key in s)
        if len({s.get(key, "–") for s in settings}) > 1
    ]
    summaries = [_summary(part) for part in parts]
    for summary, values in zip(summaries, settings, strict=True):
        told = [f"{key} {values[key]}" for key in unlike if key in values]
        summary.notes.extend([f"settings: {', '.join(told)}"] if told else [])
    return summaries


def _settings(run: dict[str, Any]) -> dict[str, str]:
    """Settings by `part.name` or `part.group.name`, as JSON, without seeds and what changes no result."""
    known = _flat(run.get("settings") or {})
    told = ((key, value) for key, value in known if key not in IDLE and not key.endswith(".seed"))
    return {key: json.dumps(value, ensure_ascii=False) for key, value in told}


def _flat(settings: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its path: `memory.mining.gamma`."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _summary(runs: list[dict[str, Any]]) -> Summary:
    first, cells, model = runs[0], [_cells(run) for run in runs], runs[0].get("model") or {}
    columns = []
    for key in dict.fromkeys(key for cell in cells for key in cell):
        members = [cell[key] for cell in cells if key in cell]
        values = {
            score: {
                metric: _over_seeds([m[score][metric] for m in members if score in m]) for metric in METRICS
            }
            for score in dict.fromkeys(score for m in members for score in m)
        }
        published = {
            score: figures for score, figures in _published(first, key[0], key[1]).items() if score in values
        }
        columns.append(Column(*key, values, published, _meaningless(runs, *key) & values.keys()))
    name, pretrained = model.get("name") or "", model.get("pretrained") or ""
    notes, paths = _notes(runs), [run["path"] for run in runs if "path" in run]
    sources = dict.fromkeys(figures["source"] for column in columns for figures in column.published.values())
    if sources:
        other = (
            f" (this run: {name}, {pretrained})"
            if name and (name, pretrained) not in PUBLISHED_MODELS
            else ""
        )
        notes.append(f"published with CLIP ViT-B/16 of OpenAI{other}: {'; '.join(sources)}")
    if paths:
        notes.append(f"from {', '.join(paths)}")
    seeds = [run.get("seed") for run in runs]
    return Summary(
        first.get("benchmark") or "", name, pretrained, seeds, columns, notes, paths, _warnings(runs)
    )


def _faults(
    runs: list[dict[str, Any]],
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Stream, its results, run and fault of each fault that the results tell."""
    for run in runs:
        for name, stream in run["streams"].items():
            for fault in stream.get("faults") or ():
                yield name, stream, run, fault


def _meaningless(runs: list[dict[str, Any]], kind: str, name: str, group: str) -> frozenset[str]:
    """The scores of a column that a fault of one of its streams makes meaningless."""
    found = set[str]()
    for stream, results, _, fault in _faults(runs):
        of = {
            "stream": name == stream,
            "set": name.startswith(f"{stream}: "),
            "group": name == results["group"],
        }
        if kind == "mean" or of[kind]:
            found |= set(results["scores"] if fault["scores"] is None else fault["scores"])
    return frozenset(found)


def _warnings(runs: list[dict[str, Any]]) -> list[str]:
    """A sentence for each fault; with several runs by seed."""
    told = []
    for stream, _, run, fault in _faults(runs):
        seed = f" (seed {run.get('seed')})" if len(runs) > 1 else ""
        told.append(f"! {stream}{seed}: {fault['text']}")
    return told


def _published(run: dict[str, Any], kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Published figures by score, for this stream, or for a mean if the run has all sets of that mean."""
    known = json.loads((files("ants_lightning") / "assets" / "published.json").read_text(encoding="utf-8"))
    figures = known.get(run.get("benchmark"), {}).get(name, {})
    if not figures or kind == "set" or (kind == "stream") == ("sets" in figures):
        return {}
    sets = {stream for stream, s in run["streams"].items() if kind == "mean" or s["group"] == name}
    return figures["scores"] if kind == "stream" or sets == set(figures["sets"]) else {}


def _cells(run: dict[str, Any]) -> dict[tuple[str, str, str], Scores]:
    """The scores of one run by kind, name and group of column."""
    streams, cells = run["streams"], dict[tuple[str, str, str], Scores]()
    for name, stream in streams.items():
        cells["stream", name, stream["group"]] = stream["scores"]
        for part, of in (stream.get("sets") or {}).items():
            cells["set", f"{name}: {part}", of.get("group") or stream["group"]] = of["scores"]
    if len(streams) == 1:
        return cells
    groups = list(dict.fromkeys(stream["group"] for stream in streams.values()))
    for group in sorted(groups, key=lambda group: ("near", "far", group).index(group)):
        if group in ("near", "far") or len(groups) > 1:
            cells["group", group, group] = _mean(
                [s["scores"] for s in streams.values() if s["group"] == group]
            )
    cells["mean", "mean", ""] = _mean([stream["scores"] for stream in streams.values()])
    return cells


def _mean(members: list[Scores]) -> Scores:
    """Over streams, of the scores that all of them have."""
    shared = [score for score in members[0] if all(score in member for member in members)]
    return {
        score: {metric: fmean(member[score][metric] for member in members) for metric in METRICS}
        for score in shared
    }


def _over_seeds(values: list[float]) -> Value:
    return Value(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _notes(runs: list[dict[str, Any]]) -> list[str]:
    notes = []
    if len(runs) > 1:
        notes.append(
            f"{len(runs)} seeds ({', '.join(str(run['seed']) for run in runs)}): mean ± sample standard "
            f"deviation"
        )
    for name, stream in runs[0]["streams"].items():
        if len(runs) > 1:
            values = [run["streams"][name].get("id_accuracy") for run in runs]
            told = [f"ID accuracy {_over_seeds(values)} %"] if None not in values else []
        else:
            told = [
                form.format(stream[key])
                for key, form in NOTES.items()
                if isinstance(stream.get(key), int | float)
            ]
        notes += [f"{name}: {', '.join(told)}"] if told else []
    return notes
