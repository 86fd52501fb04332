"""Whether an adaptation worked: what makes a column of the table meaningless, in sentences; and answers that are refusals."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

Fault = dict[str, Any]  # `kind`; `scores`: names of the columns that it makes meaningless, all where None; `text`: a sentence

FEW, FEW_CLASSES = 20, 30  # descriptions and lists of names, before which nothing is said of their likeness
MOST = 0.5  # an answer to a larger share of the questions than this is a refusal
RECENT = 1_000  # newest sentences that are compared
LOST = 0.1  # share of the images from which on a column is not that of the stream
ADAPTED = ("ens", "vsnl", "ants")


def commonest(answers: Iterable[Hashable], least: int = FEW) -> tuple[Any, float]:
    """The answer that came most often and its share of all; None and 0.0 for fewer than `least` answers.

    >>> commonest(["no", "no", "a dog"], least=3)
    ('no', 0.6666666666666666)
    """
    counts = Counter(answers)
    total = counts.total()
    if not total or total < least:
        return None, 0.0
    answer, count = counts.most_common(1)[0]
    return answer, count / total


class Health:
    """What became of the questions and answers of one stream; its size is bounded."""

    def __init__(self) -> None:
        self.sync_points, self.without_effect = 0, 0
        self.sentences = 0  # usable ones, repeated or dropped ones too
        self.adapted = {"ens": 0, "vsnl": 0}  # images scored while a space held texts of the MLLM
        self.dropped_sentences = dict[str, int]()  # by reason
        self.dropped_labels = dict[str, str]()  # reason by label: a label comes again with its class
        self.recent: list[str] = []  # the newest sentences, folded
        self.repeated: list[str] = []  # answers that came to most questions, folded
        self.identical = 0.0  # largest share of one sentence among the newest

    def scored(self, images: int, learnt: Mapping[str, bool]) -> None:
        """Count images that were scored in these spaces."""
        self.adapted = {name: count + images * learnt[name] for name, count in self.adapted.items()}

    def synced(self, changed: bool) -> None:
        """Count a sync point."""
        self.sync_points += 1
        self.without_effect += not changed

    def heard(self, sentences: list[str]) -> None:
        """Take usable sentences, folded."""
        self.sentences += len(sentences)
        self.recent = [*self.recent, *(one for one in sentences if one not in self.repeated)][-RECENT:]

    def refuse_sentence(self) -> str:
        """The sentence that came to most of the newest images, folded, to be taken for a refusal; "" for none."""
        sentence, share = commonest(self.recent)
        self.identical = max(self.identical, share)
        if share <= MOST:
            return ""
        self.repeated = [*self.repeated, sentence]
        self.recent = [one for one in self.recent if one != sentence]
        return sentence

    def refuse_names(self, answers: Mapping[str, list[str]]) -> list[str]:
        """The list of names that came to most classes, of those not empty; [] for none."""
        names, share = commonest((tuple(answer) for answer in answers.values() if answer), FEW_CLASSES)
        if share <= MOST:
            return []
        self.repeated = [*self.repeated, ", ".join(names)]
        return list(names)

    def drop_sentences(self, dropped: Iterable[tuple[str, str]]) -> None:
        """Count sentences that hygiene dropped, by reason."""
        for _, reason in dropped:
            self.dropped_sentences = {**self.dropped_sentences, reason: self.dropped_sentences.get(reason, 0) + 1}

    def drop_labels(self, dropped: Iterable[tuple[str, str]]) -> None:
        """Note labels that hygiene dropped, with the reason."""
        self.dropped_labels = {**self.dropped_labels, **dict(dropped)}

    def report(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """What `results.json` tells.

        Args:
            counts: of `Guard`, over all ranks.
        """
        labels = Counter(self.dropped_labels.values())
        reasons = dict.fromkeys([*self.dropped_sentences, *labels])
        failed = counts["mllm_failures"] - counts["mllm_unread"]
        return {
            "asked": counts["mllm_calls"], "recalled": counts["mllm_recalled"], "answered": counts["mllm_calls"] - failed,
            "unusable": counts["mllm_unusable"], "unread": counts["mllm_unread"], "images_shown": counts["mllm_shown"],
            "sentences": self.sentences, "dropped": {why: self.dropped_sentences.get(why, 0) + labels[why] for why in reasons},
            "repeated": self.repeated, "identical": self.identical, "sync_points": self.sync_points,
            "without_effect": self.without_effect, "adapted": self.adapted,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state` told."""
        vars(self).update(state)


def adaptation_faults(health: Mapping[str, Any], unanswered: Sequence[str] = ()) -> list[Fault]:
    """What makes `ens`, `vsnl`, `ants` or a baseline that asks the MLLM meaningless in one stream.

    Args:
        health: of `results.json`: `Health.report` and what `Shaper.report` adds.
        unanswered: columns of baselines for which the MLLM named no similar classes.
    """
    failed = health["asked"] - health["answered"]
    answered = health["answered"] + health["recalled"]
    because = f" ({health['cause']})" if health["cause"] else ""
    if failed and not answered:
        text = f"the MLLM answered 0 of {health['asked']:,} questions{because}: ENS, VSNL and ANTS are NegLabel's"
        return [{"kind": "no_answer", "scores": [*ADAPTED, *unanswered], "text": text}]
    found = []
    if unanswered:
        text = f"the MLLM named no similar classes for {', '.join(unanswered)}{because}"
        found.append({"kind": "no_answer", "scores": list(unanswered), "text": text})
    if failed > health["asked"] / 2:
        text = f"the MLLM answered {health['answered']:,} of {health['asked']:,} questions{because}"
        found.append({"kind": "few_answers", "scores": list(ADAPTED), "text": text})
    if health["repeated"]:
        text = f"the same answer to most questions was taken for a refusal: {', '.join(map(repr, health['repeated'][:2]))}"
        found.append({"kind": "same_answer", "scores": list(ADAPTED), "text": text})
    never = [score for score in ("ens", "vsnl") if not health["adapted"][score]]
    if never:
        names = " and ".join({"ens": "ENS", "vsnl": "VSNL"}[score] for score in never)
        text = f"no image was scored with texts of the MLLM in {names}: {_why(health, never)}"
        found.append({"kind": "never_adapted", "scores": [*never, "ants"], "text": text})
    return found


def _why(health: Mapping[str, Any], never: list[str]) -> str:
    """Why nothing was learnt, by the first thing that stood in the way."""
    images, dropped = health["images"], sum(health["dropped"].values())
    if not health["asked"] + health["recalled"]:
        if images < health["min_images"]:
            return f"the stream has {images:,} images, min_images is {health['min_images']:,}"
        if health["cause"]:
            return f"it had failed before, and was not asked in this stream ({health['cause']})"
        if health.get("held"):
            return f"min_separation held all {health['held']:,} refreshes"
    if any(health["learnt"][score] for score in never):
        every = f"refresh_every is {health['refresh_every']:,} batches"
        return f"they came at the last of {health['sync_points']:,} sync points, {every}"
    if never == ["ens"] and not health["images_shown"] and health["unread"]:
        return f"{health['unread']:,} images could not be read again to be shown to it"
    if never == ["ens"] and not health["images_shown"]:
        return f"none was shown to it; S_nl was below γ = {health['gamma']:g} for {health['candidates']:,} of {images:,} images"
    if dropped:
        return f"{dropped:,} answers were dropped, {', '.join(f'{n:,} {why}' for why, n in health['dropped'].items() if n)}"
    return f"it gave nothing usable on {health['unusable']:,} of {health['asked']:,} questions"


def stream_faults(result: Mapping[str, Any]) -> list[Fault]:
    """What makes all columns of one stream meaningless.

    Args:
        result: of the stream: `n_id`, `n_ood`, `n_unreadable`, `n_not_finite`.
    """
    lost = result["n_unreadable"] + result["n_not_finite"]
    total = result["n_id"] + result["n_ood"] + lost
    if lost <= LOST * total:
        return []
    why = f"{result['n_unreadable']:,} could not be read, {result['n_not_finite']:,} gave NaN or Inf"
    return [{"kind": "left_out", "scores": None, "text": f"{lost:,} of {total:,} images were left out: {why}"}]
