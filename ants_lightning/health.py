"""Whether an adaptation worked: faults, which make columns meaningless, and refusals of the MLLM."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ants_lightning.distributed import gather_json

# `kind`; `scores`, the columns that it makes meaningless, None for all; `text`, a sentence.
Fault = dict[str, Any]

FEW = 20  # fewer descriptions than this are not compared
FEW_CLASSES = 30  # fewer lists of names than this are not compared
MOST = 0.5  # an answer that came to a larger share of the questions is taken for a refusal
RECENT = 1_000  # number of newest sentences that are compared
LOST = 0.1  # if a larger share of the images was left out, columns are not those of the stream
ADAPTED = ("ens", "vsnl", "ants")


def commonest(answers: Iterable[Hashable], least: int = FEW) -> tuple[Any, float]:
    """The most frequent answer and its share of all answers; None and 0.0 for fewer than `least` answers.

    >>> commonest(["no", "no", "a dog"], least=3)
    ('no', 0.6666666666666666)
    """
    counts = Counter(answers)
    total = counts.total()
    if not total or total < least:
        return None, 0.0
    answer, count = counts.most_common(1)[0]
    return answer, count / total


@dataclass
class Health:
    """Counts of questions and answers in one stream; their size is bounded.

    Attributes:
        sync_points: number of sync points.
        without_effect: sync points that changed no text.
        sentences: usable sentences, including repeated and dropped ones.
        adapted: images that were scored with texts of the MLLM, by space.
        dropped_sentences: number of dropped sentences by reason.
        dropped_labels: reason by dropped label. A label comes again whenever its class does, and counts once.
        recent: the newest sentences, folded.
        repeated: answers that came to most questions, folded.
        identical: the largest share that one sentence had among the newest.
    """

    sync_points: int = 0
    without_effect: int = 0
    sentences: int = 0
    adapted: dict[str, int] = field(default_factory=lambda: {"ens": 0, "vsnl": 0})
    dropped_sentences: dict[str, int] = field(default_factory=dict)
    dropped_labels: dict[str, str] = field(default_factory=dict)
    recent: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    identical: float = 0.0

    def scored(self, images: int, learnt: Mapping[str, bool]) -> None:
        """Count images as adapted in each space that has learnt something."""
        more = {name: images if learnt[name] else 0 for name in self.adapted}
        self.adapted = {name: count + more[name] for name, count in self.adapted.items()}

    def synced(self, changed: bool) -> None:
        """Count a sync point, and whether it changed a text."""
        self.sync_points += 1
        if not changed:
            self.without_effect += 1

    def heard(self, sentences: list[str]) -> None:
        """Take usable sentences, folded."""
        self.sentences += len(sentences)
        self.recent = [*self.recent, *(one for one in sentences if one not in self.repeated)][-RECENT:]

    def refuse_sentence(self) -> str:
        """Find a new refusal: the sentence, folded, that came to most of the newest images; "" for none.

        It is noted in `repeated` and no longer compared.
        """
        sentence, share = commonest(self.recent)
        self.identical = max(self.identical, share)
        if share <= MOST:
            return ""
        self.repeated = [*self.repeated, sentence]
        self.recent = [one for one in self.recent if one != sentence]
        return sentence

    def refuse_names(self, answers: Mapping[str, list[str]]) -> list[str]:
        """Find a new refusal: the list of names that came to most classes with names; [] for none.

        It is noted in `repeated`.
        """
        names, share = commonest((tuple(answer) for answer in answers.values() if answer), FEW_CLASSES)
        if share <= MOST:
            return []
        self.repeated = [*self.repeated, ", ".join(names)]
        return list(names)

    def drop_sentences(self, dropped: Iterable[tuple[str, str]]) -> None:
        """Count sentences that hygiene dropped; each comes with the reason."""
        reasons = Counter(reason for _, reason in dropped)
        self.dropped_sentences = dict(Counter(self.dropped_sentences) + reasons)

    def drop_labels(self, dropped: Iterable[tuple[str, str]]) -> None:
        """Note labels that hygiene dropped; each comes with the reason."""
        self.dropped_labels = {**self.dropped_labels, **dict(dropped)}

    def report(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The counts as they stand in `results.json`.

        Args:
            counts: of the MLLM's `Guard`, over all ranks.
        """
        labels = Counter(self.dropped_labels.values())
        reasons = dict.fromkeys([*self.dropped_sentences, *labels])
        failed = counts["mllm_failures"] - counts["mllm_unread"]
        return {
            "asked": counts["mllm_calls"],
            "recalled": counts["mllm_recalled"],
            "answered": counts["mllm_calls"] - failed,
            "unusable": counts["mllm_unusable"],
            "unread": counts["mllm_unread"],
            "images_shown": counts["mllm_shown"],
            "sentences": self.sentences,
            "dropped": {why: self.dropped_sentences.get(why, 0) + labels[why] for why in reasons},
            "repeated": self.repeated,
            "identical": self.identical,
            "sync_points": self.sync_points,
            "without_effect": self.without_effect,
            "adapted": self.adapted,
        }

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a `state`."""
        for one in fields(self):
            setattr(self, one.name, state[one.name])


def adaptation_faults(health: Mapping[str, Any], unanswered: Sequence[str] = ()) -> list[Fault]:
    """Faults that make `ens`, `vsnl`, `ants` or a baseline that asks the MLLM meaningless in one stream.

    Args:
        health: that of `results.json`: `Health.report`, and what `Refresher.report` adds.
        unanswered: names of baselines for which the MLLM named no similar classes.
    """
    failed = health["asked"] - health["answered"]
    answered = health["answered"] + health["recalled"]
    because = f" ({health['cause']})" if health["cause"] else ""
    if failed and not answered:
        answers = f"the MLLM answered 0 of {health['asked']:,} questions{because}"
        text = f"{answers}: ENS, VSNL and ANTS are NegLabel's"
        return [{"kind": "no_answer", "scores": [*ADAPTED, *unanswered], "text": text}]
    found = []
    if unanswered:
        text = f"the MLLM named no similar classes for {', '.join(unanswered)}{because}"
        found.append({"kind": "no_answer", "scores": list(unanswered), "text": text})
    if failed > health["asked"] / 2:
        text = f"the MLLM answered {health['answered']:,} of {health['asked']:,} questions{because}"
        found.append({"kind": "few_answers", "scores": list(ADAPTED), "text": text})
    if health["repeated"]:
        some = ", ".join(map(repr, health["repeated"][:2]))
        text = f"the same answer to most questions was taken for a refusal: {some}"
        found.append({"kind": "same_answer", "scores": list(ADAPTED), "text": text})
    never = [score for score in ("ens", "vsnl") if not health["adapted"][score]]
    if never:
        names = " and ".join({"ens": "ENS", "vsnl": "VSNL"}[score] for score in never)
        text = f"no image was scored with texts of the MLLM in {names}: {_why(health, never)}"
        found.append({"kind": "never_adapted", "scores": [*never, "ants"], "text": text})
    return found


def _why(health: Mapping[str, Any], never: list[str]) -> str:
    """The first reason why nothing was learnt in the spaces `never`."""
    images, dropped = health["images"], sum(health["dropped"].values())
    if not health["asked"] + health["recalled"]:
        if images < health["min_images"]:
            return f"the stream has {images:,} images, schedule.min_images is {health['min_images']:,}"
        if health["cause"]:
            return f"it had failed before, and was not asked in this stream ({health['cause']})"
        if health.get("held"):
            return f"schedule.min_separation held all {health['held']:,} refreshes"
    if any(health["learnt"][score] for score in never):
        every = f"schedule.every is {health['every']:,} batches"
        return f"they came at the last of {health['sync_points']:,} sync points, {every}"
    if never == ["ens"] and not health["images_shown"] and health["unread"]:
        return f"{health['unread']:,} images could not be read again to be shown to it"
    if never == ["ens"] and not health["images_shown"]:
        candidates = f"{health['candidates']:,} of {images:,} images"
        return f"none was shown to it; S_nl was below γ = {health['gamma']:g} for {candidates}"
    if dropped:
        reasons = ", ".join(f"{n:,} {why}" for why, n in health["dropped"].items() if n)
        return f"{dropped:,} answers were dropped, {reasons}"
    return f"it gave nothing usable on {health['unusable']:,} of {health['asked']:,} questions"


def stream_faults(result: Mapping[str, Any]) -> list[Fault]:
    """Faults that make all columns of one stream meaningless: one if too many images were left out.

    Args:
        result: numbers of images in the stream: `n_id`, `n_ood`, `n_unreadable`, `n_not_finite`.
    """
    lost = result["n_unreadable"] + result["n_not_finite"]
    total = result["n_id"] + result["n_ood"] + lost
    if lost <= LOST * total:
        return []
    why = f"{result['n_unreadable']:,} could not be read, {result['n_not_finite']:,} gave NaN or Inf"
    text = f"{lost:,} of {total:,} images were left out: {why}"
    return [{"kind": "left_out", "scores": None, "text": text}]


class PredictionHealth:
    """Counts of the images of a prediction that this rank scored or left out, by loader."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[str]] = {}

    def count(self, loader: int, scored: int, unreadable: int, not_finite: int) -> None:
        """Add the images of a batch."""
        counts = self._counts.setdefault(loader, Counter())
        counts.update(n_id=scored, n_unreadable=unreadable, n_not_finite=not_finite)

    def faults(self, streams: Sequence[str]) -> dict[str, list[Fault]]:
        """`stream_faults` of all ranks together, by stream that has some; all ranks call it at once."""
        parts = gather_json([dict(self._counts.get(place, {})) for place in range(len(streams))])
        found = {}
        for stream, counts in zip(streams, zip(*parts, strict=True), strict=True):
            total = sum(map(Counter, counts), Counter[str]())
            lost = {name: total[name] for name in ("n_id", "n_unreadable", "n_not_finite")}
            if faults := stream_faults({"n_ood": 0, **lost}):
                found[stream] = faults
        return found
