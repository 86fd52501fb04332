"""What chat models wrap their answers in is taken off."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning.mllm.parsing import parse_names, parse_sentence
from ants_lightning.mllm.refusals import is_refusal

DRESSED = [
    "A red bird.",
    "<think>x</think>A red bird.",
    "[THINK]x[/THINK]A red bird.",
    "<seed:think>x</seed:think>A red bird.",
    "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>A red bird.<|END_RESPONSE|>",
    "<unused94>thought\nhm<unused95>A red bird.",
    "<|channel>thought\nhm\n<channel|>A red bird.",
    "analysisThe user wants a cat.assistantfinalA red bird.",
    "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>A red bird.",
    "<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>A red bird.<|end_of_solution|>",
    "<think>a<think>b</think>c</think>A red bird.",
    "<think>a</think><answer>A red bird.</answer>",
    "So it is. <answer>A red bird.</answer>",
    "<think>x</think><|begin_of_box|>A red bird.<|end_of_box|>",
    "I looked.\n\n**Final Answer**\n\\boxed{A red bird.}",
    "&lt;think&gt;x&lt;/think&gt;A red bird.",
    "<THINK >x</THINK>\nA red bird.",
    "A red bird.<|im_end|>",
    "A red bird.</s>",
    "Thinking...\nhm\n...done thinking.\n\nA red bird.",
    "Sure! Here is a description:\n\nA red bird.",
    'Sure, here\'s a description of the image in a few words:\n\n"A red bird."',
    "Here's a description without using the word 'star':\nA red bird.",
    "Here's a description without using the word star: A red bird.",
    "Certainly! A red bird.",
    "Sure, I can help with that! A red bird.",
    "Of course! I'd be happy to help. A red bird.",
    "Sure thing! A red bird.",
    "**Description:** A red bird.",
    "**Description**: A red bird.",
    "**Description**\nA red bird.",
    "# Description\n\nA red bird.",
    "## What I see\nA red bird.",
    "Answer: A red bird.",
    "**Final answer:** A red bird.",
    "The main object is: A red bird.",
    "The main object in this image is:\n\nA red bird.",
    "ASSISTANT: A red bird.",
    "USER: Describe it.\nASSISTANT: A red bird.",
    'Caption: "A red bird."',
    "1. A red bird.\n2. A blue one.",
    "- A red bird.",
    "> A red bird.",
    "`A red bird.`",
    "```\nA red bird.\n```",
    "```text\nA red bird.\n```",
    "***A red bird.***",
    "_A red bird._",
    '{"caption": "A red bird."}',
    '```json\n{"caption": "A red bird."}\n```',
    'Here is the JSON:\n```json\n{"description": "A red bird.", "confidence": 0.9}\n```\nLet me know!',
    '{"thoughts": "hm a cat", "answer": "A red bird."}',
    '[{"caption": "A red bird."}]',
    "{'caption': 'A red bird.'}",
    '{"result": {"caption": "A red bird."}}',
    '{"main object": "A red bird."}',
    '"A red bird."',
    'Sure! {"caption": "A red bird."}',
    '{caption: "A red bird."}',
    "| Object |\n|---|\n| A red bird. |",
    "Here is a short description of the main object in the image.\nA red bird.",
    "Here are a few words: A red bird.",
    "In a few words: A red bird.",
    "Main object: A red bird.",
    "Description of the image: A red bird.",
    "A red bird.\n\nLet me know if you need more!",
    "Okay, here you go:\nA red bird.",
    "<p>A red bird.</p>",
    "<caption>A red bird.</caption>",
    "A red bird.\n</think>\nA red bird.",
    "Based on the image, here is a description: A red bird.",
    "\u202aA red bird.\u202c",
    "\x1b[31mA red bird.\x1b[0m",
    "Hello! A red bird.",
    "Great question! A red bird.",
    "这是描述：\nA red bird.",
    "Voici une description :\nA red bird.",
    "Hier ist eine Beschreibung:\n\nA red bird.",
    "(1) A red bird.",
    "A red bird.\n\n(Note: I avoided the word.)",
    "Here's a description:\n\n---\n\nA red bird.\n\n---",
]


@pytest.mark.parametrize("answer", DRESSED)
def test_a_sentence_comes_out_of_its_dress(answer):
    assert parse_sentence(answer) == "A red bird."


ORDINARY = [
    "A sorry-looking dog",
    "Sorry-looking dog on a street",
    "Here comes a dog",
    "Here lies an old boat on the sand",
    "Here is a red bird.",
    "Here are five birds on a wire.",
    "A man who can't see over the fence",
    "A blindfolded man unable to see the road",
    'A T-shirt with the words "I can\'t even"',
    "A sign that says: STOP",
    "A sign that says the following words: STOP",
    "A clock at 12:30",
    "Okapi in the grass",
    "Great white shark",
    "Surely a cat",
    "Yesterday's newspaper",
    "Hi-vis vest on a hook",
    "A user interface of a phone",
    "The user interface of a phone",
    "Analysis equipment in a lab",
    "analysis of blood in a tube",
    "Thinking man statue",
    "A thought bubble",
    "Error message on a computer screen",
    "No parking sign",
    "No smoking sign on a wall",
    "The image shows a red bird.",
    "The main object is a red bird.",
    "The picture shows a man.",
    "I see a red bird",
    "Nothing but blue sky",
    "Unknown flower with red petals",
    "None of the chairs are occupied",
    "An AI robot",
    "Picture of a dog",
    "Photo frame",
    "A list of names on a wall",
    "Word search puzzle",
    "Image of a bird",
    "A title page",
    "Close-up photo: bird",
    "2.5 metres of rope",
    "Ten pins",
    "Five apples",
    "An image without people",
    "Class photo of children",
    "Salt & pepper shakers",
    "A woman saying sorry",
    "Right whale",
    "First aid kit",
    "Well with a bucket",
    "So-called bear",
    "Notebook",
    "Enjoyable view",
    "Thank-you card on a table",
    "If-then diagram",
    "A bird (red)",
    "Hope diamond",
    "Ok sign hand",
    "a red bird [1]",
    'Bird\'s nest, "tiny", in a tree',
    "Children can't be seen",
    "The image does not show a dog but a red bird",
    "Bot fly on a leaf",
    "Gpt poster",
    "<- arrow sign",
    "5 < 7 written on a board",
    "I-beam",
    "A & B blocks",
    "Lettuce",
    "Ice can",
    "Title fight",
    "A can opener",
    "A can not opened",
    "Failed cake",
    "Tiger",
    "Coke sign",
    "Common frog",
    "Wait sign",
    "Asked",
]


@pytest.mark.parametrize("sentence", ORDINARY)
def test_an_ordinary_description_stays_as_it_is(sentence):
    assert parse_sentence(sentence) == sentence.strip('"')


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<|channel|>final<|message|>",
        "```json",
        "```",
        "**",
        "#",
        "|",
        "|---|",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ":",
        ",",
        "1. ",
        "- ",
        "\n",
        " ",
        "Wolf",
        "Sure!",
        "Here is a description:",
        "I'm sorry",
        "<answer>",
        "</answer>",
        "\\boxed{",
        "&lt;",
        "(",
        ")",
        "\x1b[31m",
        "\ud800",
        "\r",
        "、",
        " and ",
        "Answer",
        "is",
    ]
)


@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_mixture_of_dress_gives_clean_short_text_and_raises_nothing(answer):
    sentence, names = parse_sentence(answer), parse_names(answer, 5)
    assert len(sentence) <= 300 and len(names) <= 5
    for text in [sentence, *names]:
        assert text.isprintable() and text == text.strip()
        text.encode()


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "{",
        "[",
        '["',
        "{'",
        "```",
        "**a",
        "(",
        "a (",
        "| a ",
        "a: ",
        "- ",
        "# ",
        "a and ",
        "\\boxed{",
        "<answer>",
        "Sure! ",
        "I ",
        "the image ",
        "<|channel|>a<|message|>",
        "assistantfinal",
        "A. ",
        "&lt;",
        "\x1b[",
        "1. ",
    ],
)
def test_no_repetition_takes_long(piece):
    start = time.process_time()
    for count in (700, 100_000):
        parse_sentence(piece * count), parse_names(piece * count, 5)
    assert time.process_time() - start < 2


@given(st.text(max_size=60))
def test_no_text_makes_the_test_for_a_refusal_raise(text):
    assert is_refusal(text) in (True, False)
