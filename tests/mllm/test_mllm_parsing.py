import json
import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning.mllm.parsing import parse_names, parse_sentence
from ants_lightning.mllm.refusals import is_refusal

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
    "Sure! Here are some classes that look alike:\n\n1. Wolf\n2. Red fox\n3. Coyote\n\nWould you like some "
    "more of them?",
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


@pytest.mark.parametrize(
    "answer", ["", " \n", "[]", "{}", "[[], {}]", "***", "\x00\x01", "[null, 1, true]\n"]
)
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


NOT_NAMES = re.compile(  # what a model says in place of a name, and before one
    r"(other|others|etc|sure|certainly|absolutely|ok|okay|alright|great|yes|gladly|hello|hi|definitely|enjoy"
    r"|and|or|including|note|cheers|understood)$",
    re.IGNORECASE,
)
NAME = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), max_size=12).filter(
    lambda text: any(map(str.isalpha, text)) and not NOT_NAMES.match(text) and not is_refusal(text)
)
STYLES = {
    "numbers": lambda names: "\n".join(f"{i}. {name}" for i, name in enumerate(names, 1)),
    "brackets": lambda names: "\n".join(f"({i}) {name}" for i, name in enumerate(names, 1)),
    "stars": lambda names: "\n\n".join(f"* **{name}**" for name in names),
    "commas": ", ".join,
    "json": lambda names: "Here you are: " + json.dumps(names),
    "escaped json": lambda names: (
        "```json\n" + json.dumps({"names": names}, ensure_ascii=True, indent=2) + "\n```"
    ),
}


@given(st.text())
def test_any_text_gives_short_clean_text(answer):
    names, sentence = parse_names(answer, 5), parse_sentence(answer)
    assert len(names) <= 5 and len(sentence) <= 300 and len(sentence.split()) <= 30
    for text in [sentence, *names]:
        assert (
            text == text.strip()
            and "\n" not in text
            and not any(unicodedata.category(c)[0] == "C" for c in text)
        )
        text.encode()
    for name in names:
        assert 0 < len(name) <= 60 and len(name.split()) <= 4 and any(c.isalpha() for c in name)
    assert len({name.lower() for name in names}) == len(names)


@given(st.text(), st.integers(1, 9))
def test_fewer_names_are_the_first_of_more(answer, count):
    assert parse_names(answer, count) == parse_names(answer, 99)[:count]


@pytest.mark.parametrize("style", STYLES)
@given(names=st.lists(NAME, min_size=1, max_size=5, unique_by=str.lower))
def test_names_written_in_a_style_are_read_again(style, names):
    assert parse_names(STYLES[style](names), 5) == names


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot describe this image.",
    "Sorry, I can't do that.",
    "I cannot assist.",
    "As an AI language model, I cannot see images.",
    "Unfortunately, the image is blurry.",
    "I'm unable to view the image.",
    "Unable to process the image.",
    "There is no image.",
    "No image was provided.",
    "Please provide an image.",
    "N/A",
    "It looks like you didn't attach an image.",
    "Es tut mir leid, das kann ich nicht.",
    "Lo siento, no puedo.",
    "抱歉，我无法帮助。",
    "**I'm sorry**, no.",
    "<think>He wants a name.</think>I can't name it.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_no_answer(answer):
    assert parse_sentence(answer) == "" and parse_names(answer, 5) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "A sorry-looking dog.",
        "Here comes a dog.",
        "Sorry-looking dogs on a lawn.",
        "I beam of steel",
        "A man who is unable to swim.",
        "Unfortunate fish on a plate",
        "A thinking man",
        "A clock that shows 3:45 on a wall",
        "An airplane",
        "Nonetheless a bird",
    ],
)
def test_what_only_begins_like_a_refusal_or_a_preamble_is_a_sentence(sentence):
    assert parse_sentence(sentence) == sentence


THOUGHTS = [
    "<think>\nOkay, a few words.\n</think>\n\n{}",
    "Okay, a few words.\n</think>\n{}",
    "<thinking>A cat, a dog.</thinking> {}",
    "<reasoning>Hm</reasoning>{}",
    "◁think▷hm◁/think▷{}",
    "<think>" + "a thought, and " * 1000 + "</think>{}",
    "<|channel|>analysis<|message|>A cat, a dog.<|end|><|start|>assistant<|channel|>final<|message|>{}<|"
    "return|>",
]


@pytest.mark.parametrize("form", THOUGHTS)
def test_thoughts_are_no_answer_and_what_follows_them_is(form):
    assert parse_sentence(form.format("A red bird.")) == "A red bird."
    assert parse_names(form.format("wolf, fox"), 5) == ["wolf", "fox"]


@pytest.mark.parametrize("cut", ["<think>\nOkay, wolf, fox", "<|channel|>analysis<|message|>wolf, fox"])
def test_an_answer_that_was_cut_in_its_thoughts_is_none(cut):
    assert parse_sentence(cut) == "" and parse_names(cut, 5) == []


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Here is a description:\nA red bird",
        "Sure! Here's a description in a few words: A red bird",
        "### Main object\nA red bird",
        "**Answer:** A red bird",
        "Description: A red bird",
        "The main object is:\n- A red bird",
        "Sure!\nA red bird",
        "Okay. A red bird",
        '```json\n{"caption": "A red bird"}\n```',
        '{"description": "A red bird"}',
        '["A red bird", "A bird"]',
        "```\nA red bird\n```",
        "Certainly, here are a few words:\n\n**A red bird**",
        "The main object in this image is: A red bird",
    ],
)
def test_the_dress_of_a_sentence_is_taken_off(answer):
    assert parse_sentence(answer) == "A red bird"


@pytest.mark.parametrize(
    "answer",
    [
        "1. **Wolf**: a wild dog, of the north\n2. **Red fox**: small",
        "1. Wolf - a wild dog\n2. Red fox – a small, red one",
        '[{"name": "Wolf"}, {"name": "Red fox"}]',
        '{"1": "Wolf", "2": "Red fox"}',
        "1. Wolf\n   - similar fur\n2. Red fox\n   - its tail",
        "| Name |\n|---|\n| Wolf |\n| Red fox |",
        "| # | Name | Why |\n|---|---|---|\n| 1 | Wolf | fur |\n| 2 | Red fox | tail |",
        "Sure!\n1. Wolf (Canis lupus)\n2. Red fox (Vulpes)\nHope this helps!",
        "Sure, Wolf, Red fox",
        "Names: Wolf or Red fox",
        "### Similar classes\n- Wolf\n- Red fox",
        "Wolf、Red fox",
    ],
)
def test_the_dress_of_names_is_taken_off(answer):
    assert parse_names(answer, 5) == ["Wolf", "Red fox"]
