"""Reading of what a server sends, which may be anything: an answer, an error with status 200, a web page."""

import json
from typing import Any

from ants_lightning.common.text import one_line

_LONGEST = 200  # characters of a server's words that are told


class NoAnswerError(ValueError):
    """A reply holds no answer: the message says what it holds."""


def read_answer(body: str) -> str:
    """The text of a chat completion; "" where the model said nothing.

    What it thought, in a field of its own, is not read.

    NoAnswerError where the reply has another form, tells of an error, or was cut before the first word.

    >>> read_answer('{"choices": [{"message": {"content": [{"type": "text", "text": "a bird"}]}}]}')
    'a bird'
    """
    reply = _json(body)
    choice = _item(_item(reply, "choices"), 0)
    message, finish = _item(choice, "message"), _item(choice, "finish_reason")
    if not isinstance(message, dict) or _item(reply, "error") or _item(choice, "error") or finish == "error":
        raise NoAnswerError(server_words(body))
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [_text(part) for part in parts if part is not None]
    if not isinstance(content, list | str | None):
        raise NoAnswerError(f"content of type {type(content).__name__}")
    answer = "".join(texts)
    if finish == "length" and not answer.strip():
        raise NoAnswerError(
            "it was cut by max_new_tokens before the first word: a model that thinks first needs more of them"
        )
    return answer


def model_names(body: str) -> list[str] | None:
    """The names in a server's list of models; None where it is no such list.

    A NoAnswerError where it is no JSON.

    >>> model_names('{"object": "list", "data": [{"id": "llava:latest"}]}')
    ['llava:latest']
    """
    reply = _json(body)
    items = reply if isinstance(reply, list) else _item(reply, "data")
    names = [_item(item, "id") for item in items] if isinstance(items, list) else []
    return [name for name in names if isinstance(name, str)] or None


def server_words(body: str) -> str:
    """The message in an error's body, or the body itself, as one line of at most 200 characters.

    >>> server_words('{"error": {"message": "Too many requests", "code": 429}}')
    'Too many requests'
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    error = _item(reply, "error") or _item(_item(_item(reply, "choices"), 0), "error") or reply
    for words in (error, *(_item(error, key) for key in ("message", "detail", "error"))):
        if isinstance(words, str) and words.strip():
            body = words
    text = one_line(body[: 10 * _LONGEST])
    return (text if len(text) <= _LONGEST else text[:_LONGEST] + "…") or "nothing"


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NoAnswerError(f"no JSON but: {server_words(body)}") from None


def _item(value: Any, key: str | int) -> Any:
    """An entry of an object or a list; None where there is none."""
    if isinstance(key, str):
        return value.get(key) if isinstance(value, dict) else None
    return value[key] if isinstance(value, list) and len(value) > key else None


def _text(part: Any) -> str:
    """The text of a part of a message; "" for thoughts and all that is no text."""
    text = (
        part
        if isinstance(part, str)
        else _item(part, "text")
        if _item(part, "type") in (None, "text", "output_text")
        else None
    )
    return text if isinstance(text, str) else ""
