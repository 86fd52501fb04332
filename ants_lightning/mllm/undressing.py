"""What a chat model wraps its answer in, taken off: thoughts, tags, fences, JSON."""

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST = 2000  # characters of an answer that are looked at, thoughts left out
_LONGEST_THOUGHTS = 1_000_000
_THINK = (
    r"(?:\w{1,20}:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad|"
    r"inner_?monologue)"
)
_ENDS = re.compile(
    rf"</{_THINK}\s*>|\[/think\]|◁/think▷|<\|end_?_?of_?_?thought\|>|<\|end_thinking\|>|<unused95>|"
    r"(?:^|\n)\.\.\.\s?done thinking\.?",
    re.I,
)
_BEGINS = re.compile(
    rf"<{_THINK}\b[^<>]{{0,100}}>|\[think\]|◁think▷|<\|begin_?_?of_?_?thought\|>|<\|start_thinking\|>|<unused94>|"
    rf"\A\s*thinking\.\.\.\s*\n"
    r"|\A\s*(?:thoughts?|thinking|reasoning|analysis):?[ \t]*\n|\A\s*analysis(?=[A-Z])",
    re.I,
)
_CHANNEL = re.compile(
    r"<\|channel\|?>\s*(\w+)[^<\n]{0,100}(?:<\|constrain\|>\w+)?(?:<\|message\|>|\n)|<channel\|>", re.I
)
_BARE_FINAL = re.compile(r"\A\s*(?:assistant)?(?:analysis|commentary).*assistantfinal", re.DOTALL)
_INSIDE = re.compile(
    r"<(answer|final_?answer|conclusion|response|output|result|solution|caption|description)\s*>(.*?)(?:</\1\s*>|\Z)"
    r"|<\|begin_of_(box|solution)\|>(.*?)(?:<\|end_of_\3\|>|\Z)|\\boxed\{(?:\\text\{)?([^{}]*)\}",
    re.I | re.DOTALL,
)
_FINAL = re.compile(r"(?:^|\n)[\W_]*(?:the |my )?final answer(?: is)?[\W_]*?[:：][\W_]*", re.I)
_TAGS = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?[a-zA-Z][\w-]{0,20}(?:\s[^<>\n]{0,80})?/?>|<unused\d+>|\[/?INST\]|<0x[0-9A-F]{2}>"
)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_FENCE = re.compile(r"(?:```|~~~)(?:[\w+-]*[ \t]*(?:\n|\Z))?(.*?)(?:\n?[ \t]*(?:```|~~~)|\Z)", re.DOTALL)
_LINK = re.compile(r"!?\[([^\[\]\n]{1,80})\]\([^()\s]{1,300}\)")
_TEXT_KEYS = (
    "caption",
    "description",
    "answer",
    "final_answer",
    "sentence",
    "short_description",
    "text",
    "content",
    "response",
    "output",
    "result",
    "summary",
    "main_object",
    "object",
    "subject",
    "label",
    "name",
    "title",
    "class",
    "value",
)
_NAME_KEYS = (
    "name",
    "class",
    "class_name",
    "label",
    "title",
    "object",
    "category",
    "animal",
    "item",
    "answer",
    "value",
    "text",
)
_NO_TEXT_KEYS = (
    "error",
    "errors",
    "refusal",
    "thought",
    "thoughts",
    "thinking",
    "reasoning",
    "analysis",
    "explanation",
    "confidence",
    "status",
)


def bare(answer: str | None) -> str:
    r"""An answer without thoughts, tags and control characters, in lines; "" where its thoughts have no end.

    Of thoughts the opening tag may be missing, as templates put it into the prompt.

    >>> bare("Hm, a bird.\n</think>\n\n<answer>A red bird</answer>"), bare("<think>A bird, or")
    ('A red bird', '')
    """
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), str(answer or "")[-_LONGEST_THOUGHTS:])
    text = _ESCAPES.sub("", _without_channels(text))
    text = text[max((end.end() for end in _ENDS.finditer(text)), default=0) :]
    begin = _BEGINS.search(text)
    if begin:  # and no end
        final = list(_FINAL.finditer(text, begin.end()))
        text = text[final[-1].end() :] if final else ""
    inside = [next((part for part in match.group(2, 4, 5) if part), "") for match in _INSIDE.finditer(text)]
    if any(map(str.strip, inside)):
        text = next(part for part in reversed(inside) if part.strip())
    text = "\n".join(_TAGS.sub(" ", text[: 4 * LONGEST]).splitlines())
    return clean(_LINK.sub(r"\1", text)).strip("\n")


def _without_channels(text: str) -> str:
    """What a model that answers in channels said in the last of them that is no thought."""
    channels = list(_CHANNEL.finditer(text))
    if not channels:
        bare_final = _BARE_FINAL.match(text)  # the marks were left out as special tokens
        return text[bare_final.end() :] if bare_final else text
    last = channels[-1]
    if last[1] is not None and last[1].lower() not in ("final", "answer", "response"):
        return ""
    return text[last.end() :].split("<|", 1)[0]


def clean(text: str) -> str:
    """The first characters of a text without control and format characters; line breaks and tabs stay."""
    return "".join(c for c in text[:LONGEST] if c in "\n\t" or unicodedata.category(c)[0] != "C")


def unfenced(text: str) -> str:
    """What stands in the first code fence; the text itself where there is none."""
    fence = _FENCE.search(text)
    return fence[1] if fence and fence[1].strip() else _FENCE.sub("", text)


def json_in(text: str, torn: bool) -> Any:
    """The JSON of an answer, fenced or in prose: a list or an object; None without any.

    Several objects in a row become a list.

    What only begins like JSON is mended; with `torn` a last string that is not closed is left out.
    """
    text = unfenced(text).strip()
    found = [value for value in _documents(text) if any(True for _ in strings(value))]
    if found:
        return found if len(found) > 1 else found[0]
    if text[:1] not in ("{", "["):
        return None
    straight = text.translate(dict.fromkeys(map(ord, "“”„"), '"'))
    if torn and len(re.findall(r'(?<!\\)"', straight)) % 2:
        straight = straight[: straight.rindex('"')]
    import json_repair

    try:
        mended = json_repair.loads(straight)
    except Exception:  # of a library that reads untrusted text
        return None
    if isinstance(mended, list) and text[0] == "{":  # keys without values
        mended = mended if torn else {}
    return mended if isinstance(mended, list | dict) else None


def _documents(text: str) -> Iterator[Any]:
    """The lists and objects of a text that are whole."""
    decoder, at = json.JSONDecoder(), 0
    while begin := re.compile(r"[\[{]").search(text, at):
        try:
            value, at = decoder.raw_decode(text, begin.start())
            yield value
        except (ValueError, RecursionError):
            if begin.start() == 0:
                return  # torn: what is whole within it is not all
            at = begin.end()


def strings(value: Any, depth: int = 4) -> Iterator[str]:
    """All strings within lists and objects, keys left out."""
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item, depth - 1)


def text_of(value: Any, depth: int = 4) -> str:
    """The text in JSON.

    Of an object it is the value of the key that says so, or its only string; of a list the first.
    """
    if isinstance(value, str) or not depth:
        return value if isinstance(value, str) else ""
    if isinstance(value, dict):
        value = {str(key).strip().lower().replace(" ", "_"): item for key, item in value.items()}
        known = [value[key] for key in _TEXT_KEYS if key in value]
        value = known or [item for key, item in value.items() if key not in _NO_TEXT_KEYS]
    texts = (text_of(item, depth - 1) for item in value) if isinstance(value, list) else iter(())
    return next((text for text in texts if text.strip()), "")


def names_of(value: Any, depth: int = 4) -> list[str]:
    """The names in JSON.

    They are a list of names, or of objects with a name each; an object that holds such a list; else its keys.
    """
    if isinstance(value, list):
        return [name for item in value for name in ([item] if isinstance(item, str) else _name_of(item))]
    if not isinstance(value, dict) or not depth:
        return []
    for item in value.values():
        found = names_of(item, depth - 1) if isinstance(item, list | dict) else []
        if found:
            return found
    texts = {
        str(key): item
        for key, item in value.items()
        if isinstance(item, str) and str(key).lower() not in _NO_TEXT_KEYS
    }
    if len(texts) < 2 or all(re.fullmatch(r"\w*?[ _-]?\d+", key) for key in texts):
        return list(texts.values())
    return _name_of(value) or list(texts)


def _name_of(item: Any) -> list[str]:
    if not isinstance(item, dict):
        return []
    lower = {str(key).strip().lower().replace(" ", "_"): value for key, value in item.items()}
    named = [lower[key] for key in _NAME_KEYS if isinstance(lower.get(key), str)]
    return named[:1] or (
        [value for value in lower.values() if isinstance(value, str)][:1] if len(lower) == 1 else []
    )
