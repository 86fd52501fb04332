import logging
import time
import unicodedata
from types import SimpleNamespace

import pytest

from ants_lightning.mllm.base import MLLM, parse_names, parse_sentence
from ants_lightning.mllm.guard import Guard

THREE = [
    "1. Wolf\n2. Red fox\n3. Coyote",
    "1) Wolf\n(2) Red fox\n3: Coyote",
    "a) Wolf\nb) Red fox\nc) Coyote",
    "A. Wolf\nB. Red fox\nC. Coyote",
    "- Wolf\n• Red fox\n- Coyote",
    "  * Wolf\n\n  * Red fox\n\n  * Coyote\n",
    "Wolf\r\nRed fox\r\nCoyote",
    "Wolf, Red fox, Coyote.",
    "Wolf; Red fox; Coyote",
    "Wolf, Red fox, and Coyote",
    "1. Wolf, 2. Red fox, 3. Coyote",
    '"Wolf", "Red fox", "Coyote"',
    "'Wolf', `Red fox`, *Coyote*",
    "“Wolf”, “Red fox”, “Coyote”",
    "**Wolf**\n**Red fox**\n__Coyote__",
    "1. **Wolf**\n2. **Red  fox**.\n3. **Coyote**",
    '["Wolf", "Red fox", "Coyote"]',
    '```json\n[\n  "Wolf",\n  "Red fox",\n  "Coyote"\n]\n```',
    'Of course, here are the names you want: ["Wolf", "Red fox", "Coyote"]. I hope that this helps you!',
    '{"classes": ["Wolf", "Red fox", "Coyote"]}',
    '["1. Wolf", null, 7, "Red fox", ["x"], "Coyote"]',
    "[Wolf, Red fox, Coyote]",
    "Sure! Here are some classes that look alike:\n\n1. Wolf\n2. Red fox\n3. Coyote\n\nWould you like some more of them?",
    "Wolf, WOLF, Red fox, wolf, red FOX, Coyote",
    "Wo\x00lf\n\x1bRed\u200b fox\n\ufeffCoyote\x7f",
]


@pytest.mark.parametrize("answer", THREE)
def test_names_of_any_style_are_found(answer):
    assert parse_names(answer, 5) == ["Wolf", "Red fox", "Coyote"]
    assert parse_names(answer, 3) == ["Wolf", "Red fox", "Coyote"]
    assert parse_names(answer, 2) == ["Wolf", "Red fox"]


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("sand cat, band, Anders", ["sand cat", "band", "Anders"]),  # "and" only as a word
        ("one two three four, one two three four five", ["one two three four"]),
        ("St. Bernard, shih-tzu, bird's nest", ["St. Bernard", "shih-tzu", "bird's nest"]),
        ("1. 狼\n2. 赤狐\n3. 郊狼", ["狼", "赤狐", "郊狼"]),
        ("волк, ذئب", ["волк", "ذئب"]),
        ("Ångström, Ånge, ängel", ["Ångström", "Ånge", "ängel"]),
        ("737, 42\n7", []),
        ("[not, JSON", ["not", "JSON"]),
        ('["broken", "JSON"', ["broken", "JSON"]),
    ],
)
def test_names_worked_out_by_hand(answer, names):
    assert parse_names(answer, 5) == names


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("A red bird.", "A red bird."),
        ("1. A red bird.\n2. A blue bird.", "A red bird."),
        ("- A red bird.", "A red bird."),
        ("**A red bird.**", "A red bird."),
        ("\n\n---\n  'A   red\tbird.'\nIs there more?", "A red bird."),
        ("A red\x00 bi\u200brd.\r\nMore", "A red bird."),
        ("“A red bird.”", "A red bird."),
        ("2.5 metres of rope", "2.5 metres of rope"),
        ("一只红色的鸟", "一只红色的鸟"),
        ("...\n \t\n!!!\n", ""),
    ],
)
def test_sentences_worked_out_by_hand(answer, sentence):
    assert parse_sentence(answer) == sentence


def test_a_sentence_has_at_most_so_many_words():
    words = [f"word{i}" for i in range(50)]
    assert parse_sentence(" ".join(words)).split() == words[:30]
    assert parse_sentence(" ".join(words), max_words=4).split() == words[:4]


@pytest.mark.parametrize("answer", ["", " \n", "[]", "{}", "[[], {}]", "***", "\x00\x01", "[null, 1, true]\n"])
def test_an_answer_without_names_gives_none(answer):
    assert parse_names(answer, 5) == []


def test_no_answer_is_an_empty_answer():
    assert parse_names(None, 5) == [] and parse_sentence(None) == "" == parse_sentence("")


HOSTILE = {
    "10 MB in one word": "a" * 10_000_000,
    "10 MB of names": "wolf, " * 1_700_000,
    "10 MB of lines": "\n" * 10_000_000,
    "10 MB of bullets": "- " * 5_000_000,
    "open brackets": "[" * 100_000,
    "deep JSON that fits": "[" * 990 + "]" * 990,
    "long number": "[" + "9" * 1900 + "]",
    "infinite number": "[1e999, -Infinity, NaN]",
    "surrogates": "\ud800wolf, \udfff",
    "escaped surrogates": '["\\ud800wolf", "\\u0000fox"]',
    "terminal codes": "\x1b[31mred\x1b[0m \x07bird",
    "direction marks": "\u202ewolf\u202c",
    "closed before opened": "] wolf [",
    "not available": "None, N/A",
    "every character": "".join(map(chr, range(0x3000))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers_raise_nothing_take_no_time_and_give_clean_short_text(kind):
    start = time.monotonic()
    names, sentence = parse_names(HOSTILE[kind], 5), parse_sentence(HOSTILE[kind])
    assert time.monotonic() - start < 1
    assert isinstance(names, list) and len(names) <= 5
    for text in [sentence, *names]:
        assert isinstance(text, str) and len(text) <= 2000
        text.encode()
        assert not any(unicodedata.category(c)[0] == "C" for c in text)


def guard_of(describe=None, similar=None):
    return Guard(SimpleNamespace(setup=print, describe=describe, similar_classes=similar))


def raising(error):
    def answer(*args):
        raise error

    return answer


def test_good_answers_go_through_and_are_counted():
    guard = guard_of(lambda images, avoid: [i + a for i, a in zip(images, avoid, strict=True)], lambda n, k: [n[:k]] * 3)
    assert isinstance(guard.mllm, MLLM) and guard.ask("describe", [], []) == guard.ask("similar_classes", [], 5) == []
    assert guard.ask("describe", ["x", "y"], ["a", "b"]) == ["xa", "yb"]
    assert guard.ask("similar_classes", ["p", "q", "r"], 2) == [["p", "q"]] * 3
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (5, 0)
    guard.reset()
    assert guard.counts == {"mllm_calls": 0, "mllm_failures": 0, "mllm_seconds": 0.0}


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), TimeoutError(), OSError("gone"), Exception("server")])
def test_an_mllm_that_raises_gives_none_for_each_and_warns_once_a_kind(error, caplog):
    guard = guard_of(raising(error), raising(error))
    with caplog.at_level(logging.WARNING):
        assert guard.ask("describe", ["x", "y"], ["a", "b"]) == [None, None]
        assert guard.ask("similar_classes", ["p"], 5) == [None]
        guard.reset()
        assert guard.ask("describe", ["x"], ["a"]) == [None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all(type(error).__name__ in message for message in caplog.messages)


@pytest.mark.parametrize("answers", [[], ["one"], ["one", "two", "three"], None, 5, {}])
def test_answers_of_another_number_are_all_failures(answers):
    guard = guard_of(lambda images, avoid: answers)
    assert guard.ask("describe", ["x", "y"], ["a", "b"]) == [None, None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (2, 2)


@pytest.mark.parametrize(
    ("describe", "similar"),
    [([5, 6], [5, 6]), ([["a"], ["b"]], ["wolf", "fox"]), ("ab", "ab"), ([b"a", b"b"], [[5], [None]])],
)
def test_answers_of_another_type_are_failures(describe, similar):
    guard = guard_of(lambda *args: describe, lambda *args: similar)
    assert guard.ask("describe", ["x", "y"], ["a", "b"]) == [None, None]
    assert guard.ask("similar_classes", ["p", "q"], 5) == [None, None]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (4, 4)


def test_empty_answers_are_failures_that_are_not_asked_again():
    guard = guard_of(lambda *args: ["", "a bird", None], lambda *args: [[], ["wolf"]])
    assert guard.ask("describe", "xyz", "abc") == ["", "a bird", None]
    assert guard.ask("similar_classes", ["p", "q"], 5) == [[], ["wolf"]]
    assert (guard.counts["mllm_calls"], guard.counts["mllm_failures"]) == (5, 3)


def test_the_time_of_failures_counts_too():
    guard = guard_of(lambda *args: time.sleep(0.03) or ["a"], lambda *args: time.sleep(0.03) or raising(OSError())())
    guard.ask("describe", ["x"], ["a"])
    assert 0.03 <= guard.counts["mllm_seconds"] < 1
    guard.ask("similar_classes", ["p"], 5)
    assert guard.counts["mllm_seconds"] >= 0.06


def test_the_user_can_still_interrupt():
    with pytest.raises(KeyboardInterrupt):
        guard_of(raising(KeyboardInterrupt())).ask("describe", ["x"], ["a"])
