"""What chat models wrap their answers in, and what is no answer: by kind, as they write it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning.mllm.parsing import parse_names, parse_sentence
from ants_lightning.mllm.refusals import is_refusal

DRESSED = [
    "A red bird.", "<think>x</think>A red bird.", "[THINK]x[/THINK]A red bird.", "<seed:think>x</seed:think>A red bird.",
    "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>A red bird.<|END_RESPONSE|>",
    "<unused94>thought\nhm<unused95>A red bird.", "<|channel>thought\nhm\n<channel|>A red bird.",
    "analysisThe user wants a cat.assistantfinalA red bird.",
    "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>A red bird.",
    "<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>A red bird.<|end_of_solution|>",
    "<think>a<think>b</think>c</think>A red bird.", "<think>a</think><answer>A red bird.</answer>",
    "So it is. <answer>A red bird.</answer>", "<think>x</think><|begin_of_box|>A red bird.<|end_of_box|>",
    "I looked.\n\n**Final Answer**\n\\boxed{A red bird.}", "&lt;think&gt;x&lt;/think&gt;A red bird.",
    "<THINK >x</THINK>\nA red bird.", "A red bird.<|im_end|>", "A red bird.</s>",
    "Thinking...\nhm\n...done thinking.\n\nA red bird.", "Sure! Here is a description:\n\nA red bird.",
    "Sure, here's a description of the image in a few words:\n\n\"A red bird.\"",
    "Here's a description without using the word 'star':\nA red bird.",
    "Here's a description without using the word star: A red bird.", "Certainly! A red bird.",
    "Sure, I can help with that! A red bird.", "Of course! I'd be happy to help. A red bird.", "Sure thing! A red bird.",
    "**Description:** A red bird.", "**Description**: A red bird.", "**Description**\nA red bird.",
    "# Description\n\nA red bird.", "## What I see\nA red bird.", "Answer: A red bird.", "**Final answer:** A red bird.",
    "The main object is: A red bird.", "The main object in this image is:\n\nA red bird.", "ASSISTANT: A red bird.",
    "USER: Describe it.\nASSISTANT: A red bird.", "Caption: \"A red bird.\"", "1. A red bird.\n2. A blue one.", "- A red bird.",
    "> A red bird.", "`A red bird.`", "```\nA red bird.\n```", "```text\nA red bird.\n```", "***A red bird.***",
    "_A red bird._", "{\"caption\": \"A red bird.\"}", "```json\n{\"caption\": \"A red bird.\"}\n```",
    "Here is the JSON:\n```json\n{\"description\": \"A red bird.\", \"confidence\": 0.9}\n```\nLet me know!",
    "{\"thoughts\": \"hm a cat\", \"answer\": \"A red bird.\"}", "[{\"caption\": \"A red bird.\"}]",
    "{'caption': 'A red bird.'}", "{\"result\": {\"caption\": \"A red bird.\"}}", "{\"main object\": \"A red bird.\"}",
    "\"A red bird.\"", "Sure! {\"caption\": \"A red bird.\"}", "{caption: \"A red bird.\"}",
    "| Object |\n|---|\n| A red bird. |", "Here is a short description of the main object in the image.\nA red bird.",
    "Here are a few words: A red bird.", "In a few words: A red bird.", "Main object: A red bird.",
    "Description of the image: A red bird.", "A red bird.\n\nLet me know if you need more!", "Okay, here you go:\nA red bird.",
    "<p>A red bird.</p>", "<caption>A red bird.</caption>", "A red bird.\n</think>\nA red bird.",
    "Based on the image, here is a description: A red bird.", '\u202aA red bird.\u202c', '\x1b[31mA red bird.\x1b[0m',
    "Hello! A red bird.", "Great question! A red bird.", "这是描述：\nA red bird.", "Voici une description :\nA red bird.",
    "Hier ist eine Beschreibung:\n\nA red bird.", "(1) A red bird.", "A red bird.\n\n(Note: I avoided the word.)",
    "Here's a description:\n\n---\n\nA red bird.\n\n---",
]  # fmt: skip


@pytest.mark.parametrize("answer", DRESSED)
def test_a_sentence_comes_out_of_its_dress(answer):
    assert parse_sentence(answer) == "A red bird."


NO_ANSWERS = [
    "<think>\nOkay, the", "<think>", "<thinking>a bird\n\nA red bird", "◁think▷ hm", "[THINK]hm",
    "<|channel|>analysis<|message|>x", "analysisWe need to", "<unused94>thought\nhm", "<|channel>thought\nhm a bird",
    "Okay, the user wants a few words on", "Let me look at the image first.", "Got it, let's see. The user wants",
    "thought\nThe user wants a bird\n", "I'm sorry, but I can't assist with that request.",
    "I’m sorry, I can’t help identify people", "I apologize, but I am unable to see the image.",
    "As an AI, I can't view images.", "As a language model I do not have eyes.",
    "I cannot identify the person in this picture.", "I can't see any image.", "I don't see an image attached.",
    "I do not see any image.", "Sorry, no image was provided.", "No image provided.",
    "There is no image attached to your message.", "It seems that the image is missing.", "It looks like there was no image.",
    "The image could not be loaded.", "The image is not visible.", "Image not available", "Unable to view the image.",
    "Please upload an image so that I can describe it.", "Could you please share the image?",
    "Sure! I'm sorry, but I can't see the image.", "Description: I'm sorry, I cannot describe this.",
    "{\"caption\": \"I cannot assist with that.\"}", "```\nI'm sorry, but I can't.\n```", "Unfortunately I can't do that.",
    "I won't be able to help with that.", "I must decline.", "This goes against my guidelines.",
    "We cannot process this image.", "I'm just an AI and have no eyes", "Lo siento, no puedo ver la imagen.",
    "Désolé, je ne peux pas voir l'image.", "Je suis désolée, mais je ne peux pas.", "Es tut mir leid.",
    "Leider kann ich das Bild nicht sehen.", "Desculpe, não consigo ver.", "Mi dispiace, non posso.",
    "Извините, я не могу помочь.", "К сожалению, нет изображения.",
    "抱歉，我无法查看图片。", "对不起，我不能。", "很抱歉，我看不到图片",

    "申し訳ありませんが、画像を表示できません。", "죄송합니다. 이미지를 볼 수 없습니다.",
    "عذرًا، لا أستطيع رؤية الصورة.", "Maaf, saya tidak bisa melihat gambar.",
    "Xin lỗi, tôi không thể.", "क्षमा करें, मैं नहीं देख सकता।", "Üzgünüm, yapamam.", "Przykro mi, nie mogę.",
    "Het spijt me, dat kan ik niet.", "N/A", "None", "null", "unknown", "No description available.",
    "Error: upstream timed out", "Error 429: Too Many Requests", "Internal Server Error", "Rate limit exceeded",
    "{\"error\": \"rate limit\"}", "{\"caption\": null}", "{\"caption\": \"\"}", "{}", "[]", "```json\n```", "```json", "Sure!",
    "Sure! Here is a description of the image:", "Here is a description of the main object in the image.", "**Answer:**",
    "Of course! I'd be happy to help.", "The main object is:", "{\"capt", "Let me know if you need anything else!",
    "What would you like to know?", "<think></think>", "<answer></answer>", "...", "- ", "1.", '\ud800',
    "I'm not able to help with identifying people.", "I can't help with that.", "I do not have the ability to see.",
    "My apologies, but that is not possible.", "Apologies for the confusion, no image.", "I'm afraid I can't do that.",
    "Nothing.",
]  # fmt: skip


@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_what_is_no_answer_gives_neither_sentence_nor_names(answer):
    assert parse_sentence(answer) == "" and parse_names(answer, 5) == []


ORDINARY = [
    "A sorry-looking dog", "Sorry-looking dog on a street", "Here comes a dog", "Here lies an old boat on the sand",
    "Here is a red bird.", "Here are five birds on a wire.", "A man who can't see over the fence",
    "A blindfolded man unable to see the road", "A T-shirt with the words \"I can't even\"", "A sign that says: STOP",
    "A sign that says the following words: STOP", "A clock at 12:30", "Okapi in the grass", "Great white shark", "Surely a cat",
    "Yesterday's newspaper", "Hi-vis vest on a hook", "A user interface of a phone", "The user interface of a phone",
    "Analysis equipment in a lab", "analysis of blood in a tube", "Thinking man statue", "A thought bubble",
    "Error message on a computer screen", "No parking sign", "No smoking sign on a wall", "The image shows a red bird.",
    "The main object is a red bird.", "The picture shows a man.", "I see a red bird", "Nothing but blue sky",
    "Unknown flower with red petals", "None of the chairs are occupied", "An AI robot", "Picture of a dog", "Photo frame",
    "A list of names on a wall", "Word search puzzle", "Image of a bird", "A title page", "Close-up photo: bird",
    "2.5 metres of rope", "Ten pins", "Five apples", "An image without people", "Class photo of children",
    "Salt & pepper shakers", "A woman saying sorry", "Right whale", "First aid kit", "Well with a bucket", "So-called bear",
    "Notebook", "Enjoyable view", "Thank-you card on a table", "If-then diagram", "A bird (red)", "Hope diamond",
    "Ok sign hand", "a red bird [1]", "Bird's nest, \"tiny\", in a tree", "Children can't be seen",
    "The image does not show a dog but a red bird", "Bot fly on a leaf", "Gpt poster", "<- arrow sign",
    "5 < 7 written on a board", "I-beam", "A & B blocks", "Lettuce", "Ice can", "Title fight", "A can opener",
    "A can not opened", "Failed cake", "Tiger", "Coke sign", "Common frog", "Wait sign", "Asked",
]  # fmt: skip


@pytest.mark.parametrize("sentence", ORDINARY)
def test_an_ordinary_description_stays_as_it_is(sentence):
    assert parse_sentence(sentence) == sentence.strip('"')


TWO_NAMES = [
    "1. **Wolf**: a wild canine\n2. **Red fox**: a small one", "1. Wolf - a wild dog\n2. Red fox - small",
    "1. Wolf\n   - similar fur\n2. Red fox\n   - similar tail", "1. Wolf\n- similar fur\n2. Red fox\n- tail",
    "- Wolf\n  - fur\n- Red fox\n  - tail", "**Wolf**\n- similar fur\n\n**Red fox**\n- similar tail",
    "### Wolf\n- similar fur\n### Red fox\n- tail", "### 1. Wolf\nIt has fur.\n### 2. Red fox\nIt has a tail.",
    "| Name |\n|---|\n| Wolf |\n| Red fox |", "| # | Class | Why |\n|---|---|---|\n| 1 | Wolf | fur |\n| 2 | Red fox | tail |",
    "| Why | Name |\n|:-:|---|\n| fur | **Wolf** |\n| tail | Red fox |", "Wolf | Red fox",
    "[{\"name\": \"Wolf\"}, {\"name\": \"Red fox\"}]",
    "[{\"name\": \"Wolf\", \"why\": \"fur\"}, {\"name\": \"Red fox\", \"why\": \"tail\"}]",
    "{\"name\": \"Wolf\"}\n{\"name\": \"Red fox\"}", "{\"names\": [\"Wolf\", \"Red fox\"]}",
    "{\"result\": {\"classes\": [\"Wolf\", \"Red fox\"]}}", "{\"1\": \"Wolf\", \"2\": \"Red fox\"}",
    "{\"class1\": \"Wolf\", \"class2\": \"Red fox\"}", "{\"Wolf\": \"a wild canine\", \"Red fox\": \"small\"}",
    "{\"names\": \"Wolf, Red fox\"}", "```json\n[\"Wolf\", \"Red fox\"]\n```", "```\nWolf\nRed fox\n```", "['Wolf', 'Red fox']",
    "{'names': ['Wolf', 'Red fox']}", "[\"Wolf\", \"Red fox\",]", "[\"Wolf\", \"Red fox\", \"Coyo",
    "{\"names\": [\"Wolf\", \"Red fox\", \"Co", "[\"Wolf\", \"Red fox\"", "{\"names\": [\"Wolf\", \"Red fox\"",
    "```json\n[\"Wolf\", \"Red fox\", \"C", "[{\"name\": \"Wolf\", \"why\": \"fur\"}, {\"name\": \"Red fox\", \"why\": \"sma",
    "{\"thoughts\": \"cat, dog\", \"names\": [\"Wolf\", \"Red fox\"]}", "[Wolf, Red fox]",
    "[Wolf](http://a.b/c), [Red fox](http://a.b/d)", "Wolf [1], Red fox [2]", "Wolf、Red fox", "Wolf，Red fox", "Wolf، Red fox",
    "Wolf；Red fox", "Wolf and Red fox", "Wolf & Red fox", "Wolf or Red fox", "Wolf, and Red fox", "1. Wolf 2. Red fox",
    "1.Wolf\n2.Red fox", "1、Wolf\n2、Red fox", "① Wolf\n② Red fox", "1\\. Wolf\n2\\. Red fox", "• Wolf • Red fox",
    "Wolf • Red fox", "Wolf\tRed fox", "+ Wolf\n+ Red fox", "– Wolf\n– Red fox", "- [ ] Wolf\n- [ ] Red fox",
    "> Wolf\n> Red fox", "Sure! Here are some classes:\nWolf\nRed fox", "Similar classes: Wolf, Red fox",
    "The following classes look similar: Wolf, Red fox.", "Some examples are Wolf and Red fox.",
    "Classes that look like a dog include Wolf, Red fox.", "Sure, Wolf, Red fox", "Sure! Wolf, Red fox", "Wolf, Red fox, etc.",
    "Wolf, Red fox, and more", "Wolf, Red fox, and others.", "Wolf (Canis lupus), Red fox (Vulpes)",
    "Wolf (grey, large), Red fox", "1. Wolf (Canis, lupus)\n2. Red fox",
    "1. Wolf. It is similar to dogs.\n2. Red fox. It has fur.", "1. Wolf: fur, tail\n2. Red fox: tail, and ears",
    "1. Wolf — fur\n2. Red fox—tail", "Wolf: a wild dog\nRed fox: a small one",
    "Wolf\nRed fox\n\nLet me know if you want more!", "Wolf\nRed fox\nHope this helps!", "Wolf\nRed fox\nEnjoy!",
    "1. Wolf\n\n2. Red fox\n\nThese classes share fur, tail.",
    "Here are five classes:\n\n1. Wolf\n2. Red fox\n\nThese are all canines, mammals, wild", "Wolf, Red fox, none, N/A, other",
    "<think>cat, dog</think>Wolf, Red fox", "cat, dog</think>\n\n1. Wolf\n2. Red fox", "<answer>Wolf, Red fox</answer>",
    "Answer: Wolf, Red fox", "**Answer:** Wolf, Red fox", "**Wolf**, **Red fox**", "- **Wolf:** fur\n- **Red fox:** tail",
    "- `Wolf`\n- `Red fox`", "Wolf\rRed fox", 'Wolf\u2028Red fox', "A: Wolf, Red fox", "Names:\n- Wolf\n- Red fox",
    "## Similar classes\n\nWolf\nRed fox", "* *Wolf*\n* *Red fox*", "Here you go: Wolf; Red fox", "Wolf, Red fox",
    "Classes similar to a dog:\n\nWolf, Red fox", "{\"a\": {\"b\": {\"c\": [\"Wolf\", \"Red fox\"]}}}", "Wolf,Red fox",
    "🐺 Wolf\n🦊 Red fox",
]  # fmt: skip


@pytest.mark.parametrize("answer", TWO_NAMES)
def test_names_come_out_of_their_dress(answer):
    assert parse_names(answer, 5) == ["Wolf", "Red fox"]


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("T-shirt, great white shark, rock-and-roll guitar", ["T-shirt", "great white shark", "rock-and-roll guitar"]),
        ("1. Black and tan hound\n2. Black-and-white cat", ["Black and tan hound", "Black-and-white cat"]),
        ("St. Bernard, shih-tzu, bird's nest", ["St. Bernard", "shih-tzu", "bird's nest"]),
        ("AT&T tower, R&B singer", ["AT&T tower", "R&B singer"]),
        ("- wolf\n- fox\n- I'm sorry", ["wolf", "fox"]),
        ('["black and white cat"]', ["black and white cat"]),
        ("wolf.", ["wolf"]),
        ("1. wolf", ["wolf"]),
        ("1. wolf, fox and cat", ["wolf", "fox", "cat"]),
        ("狼、赤狐", ["狼", "赤狐"]),
        ("1、狼\n2、赤狐", ["狼", "赤狐"]),
        ("orca, sandwich, andiron, oar", ["orca", "sandwich", "andiron", "oar"]),
        ("error bar, no-entry sign, unknown soldier", ["error bar", "no-entry sign", "unknown soldier"]),
        ("can opener, image, picture frame", ["can opener", "image", "picture frame"]),
        ('{"error": "too many requests"}', []),
        ("wolf\nfox\nIs that enough?", ["wolf", "fox"]),
        ("- here\n- wolf", ["here", "wolf"]),
    ],
)
def test_names_that_could_be_taken_for_dress_stay(answer, names):
    assert parse_names(answer, 5) == names


PIECES = st.sampled_from([
    "<think>", "</think>", "<|channel|>final<|message|>", "```json", "```",
    "**", "#", "|", "|---|", "{", "}", "[", "]", '"', "'", ":",
    ",", "1. ", "- ", "\n", " ", "Wolf", "Sure!", "Here is a description:", "I'm sorry", "<answer>", "</answer>",
    "\\boxed{", "&lt;", "(", ")",
    "\x1b[31m", "\ud800", "\r", "、", " and ", "Answer", "is",
])  # fmt: skip


@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_mixture_of_dress_gives_clean_short_text_and_raises_nothing(answer):
    sentence, names = parse_sentence(answer), parse_names(answer, 5)
    assert len(sentence) <= 300 and len(names) <= 5
    for text in [sentence, *names]:
        assert text.isprintable() and text == text.strip()
        text.encode()


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "{", "[", '["', "{'", "```", "**a", "(", "a (", "| a ", "a: ", "- ", "# ", "a and ", "\\boxed{",
     "<answer>", "Sure! ", "I ", "the image ", "<|channel|>a<|message|>", "assistantfinal", "A. ", "&lt;", "\x1b[", "1. "],
)  # fmt: skip
def test_no_repetition_takes_long(piece):
    start = time.process_time()
    for count in (700, 100_000):
        parse_sentence(piece * count), parse_names(piece * count, 5)
    assert time.process_time() - start < 2


@given(st.text(max_size=60))
def test_no_text_makes_the_test_for_a_refusal_raise(text):
    assert is_refusal(text) in (True, False)
