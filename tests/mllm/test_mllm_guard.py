"""`Guard`: counts, back-off, and what it keeps from the run."""

import logging
import time
from types import SimpleNamespace

import pytest

from ants_lightning.mllm import MLLM
from ants_lightning.mllm.guard import Guard


def guard_of(describe=None, similar=None):
    return Guard(SimpleNamespace(setup=print, describe=describe, similar_classes=similar))


def raising(error):
    def answer(*args):
        raise error

    return answer


def test_good_answers_go_through_and_are_counted():
    guard = guard_of(
        lambda images, avoid: [i + a for i, a in zip(images, avoid, strict=True)], lambda n, k: [n[:k]] * 3
    )
    assert isinstance(guard.mllm, MLLM) and guard.describe([], []) == guard.similar_classes([], 5) == []
    assert guard.describe(["x", "y"], ["a", "b"]) == ["xa", "yb"]
    assert guard.similar_classes(["p", "q", "r"], 2) == [["p", "q"]] * 3
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (5, 0)
    guard.reset()
    assert set(guard.counts.values()) == {0}


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("gone"), Exception("server")])
def test_an_mllm_that_raises_gives_none_for_each_and_warns_once_a_kind(error, caplog):
    guard = guard_of(raising(error), raising(error))
    with caplog.at_level(logging.WARNING):
        assert guard.describe(["x", "y"], ["a", "b"]) == [None, None]
        assert guard.similar_classes(["p"], 5) == [None]
        guard.reset()
        assert guard.describe(["x"], ["a"]) == [None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all(type(error).__name__ in message for message in caplog.messages)


@pytest.mark.parametrize("error", [TimeoutError("60 s"), ConnectionRefusedError()])
def test_when_nobody_answers_nothing_more_is_asked_in_the_same_refresh(error):
    guard = guard_of(lambda *args: ["a"], raising(error))
    guard.begin_refresh()
    assert guard.similar_classes(["p", "q"], 5) == [None, None] and guard.describe(["x"], ["a"]) == [None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (2, 2)
    guard.begin_refresh()
    assert guard.describe(["x"], ["a"]) == ["a"]


@pytest.mark.parametrize("answers", [[], ["one"], ["one", "two", "three"], None, 5, {}])
def test_answers_of_another_number_are_all_failures(answers):
    guard = guard_of(lambda images, avoid: answers)
    assert guard.describe(["x", "y"], ["a", "b"]) == [None, None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (2, 2)


@pytest.mark.parametrize(
    ("describe", "similar"),
    [([5, 6], [5, 6]), ([["a"], ["b"]], ["wolf", "fox"]), ("ab", "ab"), ([b"a", b"b"], [[5], [None]])],
)
def test_answers_of_another_type_are_failures(describe, similar):
    guard = guard_of(lambda *args: describe, lambda *args: similar)
    assert guard.describe(["x", "y"], ["a", "b"]) == [None, None]
    assert guard.similar_classes(["p", "q"], 5) == [None, None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (4, 4)


def test_empty_answers_are_failures_that_are_not_asked_again():
    guard = guard_of(lambda *args: ["", "a bird", None], lambda *args: [[], ["wolf"]])
    assert guard.describe("xyz", "abc") == ["", "a bird", None]
    assert guard.similar_classes(["p", "q"], 5) == [[], ["wolf"]]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (5, 3)


def test_the_time_of_failures_counts_too():
    guard = guard_of(
        lambda *args: time.sleep(0.03) or ["a"], lambda *args: time.sleep(0.03) or raising(OSError())()
    )
    guard.describe(["x"], ["a"])
    assert 0.03 <= guard.counts["mllm_seconds"] < 1
    guard.similar_classes(["p"], 5)
    assert guard.counts["mllm_seconds"] >= 0.06


def test_the_user_can_still_interrupt():
    with pytest.raises(KeyboardInterrupt):
        guard_of(raising(KeyboardInterrupt())).describe(["x"], ["a"])


def refreshes_asked(guard, count):
    """At which of so many refreshes it does ask."""
    asked = []
    for refresh in range(count):
        guard.begin_refresh()
        before = guard.counts["mllm_calls"]
        guard.describe(["x"], ["a"])
        asked += [refresh] * (guard.counts["mllm_calls"] > before)
    return asked


def test_a_failing_mllm_is_asked_again_at_the_next_refresh_and_then_less_and_less_often():
    assert refreshes_asked(guard_of(raising(OSError())), 40) == [0, 1, 3, 7, 15, 23, 31, 39]


def test_one_that_is_back_is_asked_at_each_refresh_again():
    answers = iter([OSError(), OSError(), OSError(), "a"] + ["b"] * 9 + [OSError(), "c", "d"])

    def describe(images, avoid):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    assert refreshes_asked(guard_of(describe), 20) == [0, 1, 3, *range(7, 20)]


def test_two_failures_in_one_refresh_count_as_one():
    guard = guard_of(raising(OSError()), raising(OSError()))
    for _ in range(2):
        guard.begin_refresh()
        guard.describe(["x"], ["a"])
        guard.similar_classes(["p"], 5)
    assert guard.counts["mllm_calls"] == 4 and "similar_classes: OSError" in guard.error


def test_a_run_that_goes_on_asks_nothing_again_that_it_was_answered_before_its_snapshot(tmp_path):
    asked = []

    def names(classes, count):
        asked.extend(classes)
        return [[] for _ in classes]

    def begin():
        guard = guard_of(similar=names)
        guard.mllm.identity = lambda: {"model": "one"}
        guard.open_record(tmp_path / "mllm.jsonl")
        guard.begin_refresh()
        return guard

    def ask(guard, classes):
        answers = guard.similar_classes(classes, 5)
        guard.keep(guard.answered, write=True)
        return answers

    earlier = begin()
    ask(earlier, ["fox"])
    first = begin()
    assert ask(first, ["fox", "cat"]) == [[], []] and asked == [
        "fox",
        "fox",
        "cat",
    ]  # an empty answer of an earlier run counts not
    state = first.state()
    assert ask(first, ["dog"]) == [[]]
    resumed = begin()
    resumed.restore(state)
    asked.clear()
    assert ask(resumed, ["fox", "cat", "dog"]) == [[], [], []] and not asked
    again = begin()
    again.restore(resumed.state())
    assert ask(again, ["fox", "cat", "dog"]) == [[], [], []] and not asked  # interrupted twice
