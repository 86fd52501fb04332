"""What a server may send, and what is read from it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import said, serving

from ants_lightning.mllm import ServedMLLM
from ants_lightning.mllm.base import Question
from ants_lightning.mllm.replies import NoAnswerError, model_names, read_answer, server_words

LENGTH = "max_new_tokens"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (said("a bird"), "a bird"),
        (said(""), ""),
        (said(None), ""),
        (said(None, refusal="I'm sorry"), ""),
        (said("a bi", finish="length"), "a bi"),
        (said([{"type": "text", "text": "a "}, {"type": "text", "text": "bird"}]), "a bird"),
        (
            said(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a bird"},
                ]
            ),
            "a bird",
        ),
        (said(["a bird", None, {"type": "image_url"}]), "a bird"),
        (said("a bird", reasoning_content="a cat?", reasoning="a dog?"), "a bird"),
        ({**said("a bird"), "error": None}, "a bird"),
        (said("\ud83d bird"), "\ud83d bird"),
    ],
)
def test_an_answer_is_read(reply, answer):
    assert read_answer(json.dumps(reply)) == answer


NO_ANSWERS = {
    "error instead": (
        {"id": None, "choices": None, "error": {"code": 429, "message": "Provider error"}},
        "Provider error",
    ),
    "error beside": ({**said("a bird"), "error": {"message": "overloaded"}}, "overloaded"),
    "error in the choice": (
        {"choices": [{**said("")["choices"][0], "error": {"message": "timed out"}}]},
        "timed out",
    ),
    "finished by an error": (said("half a", finish="error"), "half a"),
    "words of a proxy": ({"detail": "no upstream"}, "no upstream"),
    "no choices": ({"choices": []}, "choices"),
    "choices a number": ({"choices": 5}, "5"),
    "choices an object": ({"choices": {"0": "a"}}, "choices"),
    "choice a text": ({"choices": ["a bird"]}, "a bird"),
    "message null": ({"choices": [{"message": None}]}, "message"),
    "message a text": ({"choices": [{"message": "a bird"}]}, "a bird"),
    "content a number": (said(5), "int"),
    "content an object": (said({"text": "a bird"}), "dict"),
    "cut before the first word": (said(None, finish="length", reasoning_content="Let me"), LENGTH),
    "cut in white space": (said(" \n", finish="length"), LENGTH),
    "cut in its thoughts": (said([{"type": "thinking", "thinking": "hm"}], finish="length"), LENGTH),
    "a list": ([1], "1"),
    "a number": (5, "5"),
    "null": (None, "null"),
    "HTML": (b"<html>\n<title>busy</title></html>", "<title>busy"),
    "torn": (b'{"choices": [{"mess', "mess"),
    "empty": (b"", "nothing"),
    "deep": (b"[" * 100_000, r"\[\["),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_what_is_no_answer_is_said_in_its_own_words(kind):
    reply, words = NO_ANSWERS[kind]
    with pytest.raises(NoAnswerError, match=words) as error:
        read_answer(reply.decode() if isinstance(reply, bytes) else json.dumps(reply))
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


@pytest.mark.parametrize("kind", [*NO_ANSWERS, "status 500", "status 401"])
def test_one_odd_reply_of_twenty_costs_one_answer(kind, caplog):
    odd = {"status 500": (500, {"error": "boom"}), "status 401": (401, b"who?")}.get(kind) or NO_ANSWERS[
        kind
    ][0]
    with serving(lambda text, body: odd if text == "question 7" else said("a dog")) as server:
        mllm = ServedMLLM(server.url, "m", max_retries=0)
        answers = mllm.answer([Question(f"question {i}") for i in range(20)])
    assert answers == ["a dog"] * 7 + [None] + ["a dog"] * 12
    assert "1 of 20 questions failed" in caplog.text


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ([{"id": "a"}], ["a"]),
        ({"data": [{"id": "a"}, {"name": "b"}, None, {"id": 5}]}, ["a"]),
        ({"models": [{"name": "llava"}]}, None),
        ({"data": []}, None),
        ({"data": {"id": "a"}}, None),
        ({"data": None}, None),
        (5, None),
    ],
)
def test_models_are_read_where_the_list_has_the_usual_form(body, names):
    assert model_names(json.dumps(body)) == names


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "finish_reason",
                    "data",
                    "id",
                    "text",
                    "type",
                    "detail",
                ]
            ),
            inner,
        )
    ),
)


@given(JSON.map(json.dumps) | st.text())
def test_any_reply_gives_text_or_no_answer(body):
    for read in (read_answer, model_names):
        try:
            assert isinstance(read(body), str | list | None)
        except NoAnswerError as error:
            assert str(error).isprintable()
    assert server_words(body).isprintable() and len(server_words(body)) <= 201
