"""Parsing of what an MLLM answers, which is untrusted text: its dress is taken off, and what is no answer gives nothing."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_LONGEST = 2000  # characters of an answer that are looked at, thoughts left out
_LONGEST_SENTENCE, _LONGEST_NAME = 300, 60  # characters of what comes out
_QUOTES = " \"'`“”‘’«»"
_BULLET = re.compile(r"^\s*(?:[-*•·]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+")
_THOUGHTS = r"think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_THOUGHT_ENDS = re.compile(rf"</(?:{_THOUGHTS})\s*>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(rf"<(?:{_THOUGHTS})\b[^<>]{{0,100}}>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,100}<\|message\|>")  # of models that answer in channels
_SURE = re.compile(r"^(?:sure|certainly|of course|absolutely|okay|ok|great|alright)(?: thing)?\s*[!.,:]\s*", re.IGNORECASE)
_HERE = re.compile(r"^(?:here(?:['’]s| is| are|)|the following|these)\b[^:]{0,120}:\s+", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:[\w'’ -]{0,60}\b)?(?:answer|description|caption|object|image|picture|photo|words|response|names|classes|is)\b"
    r"[\w'’() -]{0,40}:\s+(?=\S)", re.IGNORECASE,
)  # fmt: skip
_EXPLAINED = re.compile(r"\s+[-–—]\s+|\s*[:：](?=\s)|\s*—\s*")
_SPLIT = re.compile(r"[,;、，；،؛]|(?<![\w-])(?:and|or)(?![\w-])")
_REFUSALS = re.compile(
    r"^(?:"
    r"(?:i['’]?m|i am|we['’]?re|we are)\s+(?:(?:very|so|really|truly)\s+)?(?:sorry|afraid\b|unable|not able|not sure|not allowed)"
    r"|(?:sorry|apologies|my apologies|unfortunately)\s*(?:[,.!:;—]|-\s|but\b|i\b)"
    r"|i\s+(?:really\s+)?(?:can['’]?t|cannot|can not|could(?: not|n['’]t)|won['’]t|will not|do not|don['’]t)\b"
    r"|i (?:must decline|apologi[sz]e)\b"
    r"|(?:as|being) an? (?:ai|artificial|large language|language model|text-based)\b"
    r"|(?:unable|not able) to (?:assist|help|comply|provide|process|view|see|describe|identify|determine)"
    r"|(?:there (?:is|was)|i see) no (?:image|picture|photo)"
    r"|no (?:image|picture|photo) (?:is|was|has been|provided|attached)"
    r"|(?:please|could you(?: please)?|can you(?: please)?) (?:provide|upload|share|attach|send)\b"
    r"|it (?:looks|seems|appears)(?: like| that)? (?:there is no|no|the|you (?:did|have)(?: not|n['’]t))[^.]{0,40}"
    r"\b(?:image|picture|photo)"
    r"|(?:lo siento|no puedo|je suis désolé|désolé|je ne peux pas|(?:es )?tut mir leid|ich kann (?:nicht|keine|das)|entschuldigung"
    r"|desculpe|sinto muito|não posso|mi dispiace|non posso|извините|к сожалению|простите|я не могу|przykro mi|üzgünüm)\b"
    r"|(?:很|非常)?(?:抱歉|对不起|對不起)|我(?:无法|無法|不能)|申し訳|すみません|ごめん|죄송|미안"
    r"|n/a\W*$"
    r")", re.IGNORECASE,
)  # fmt: skip


def parse_sentence(answer: str, max_words: int = 30) -> str:
    r"""The sentence of an answer as plain text of at most `max_words` words and 300 characters; "" if there is none.

    That is the first line that is no thought, preamble, heading or label; of JSON its first text. A refusal holds none.

    >>> parse_sentence(' "A small  red bird.\n\nIs there anything else?')
    'A small red bird.'
    >>> parse_sentence("<think>Hm.</think>Sure! Here is a description:\n- A red bird."), parse_sentence("I'm sorry, but I can't.")
    ('A red bird.', '')
    """
    text = _bare(answer)
    if _is_refusal(text):
        return ""
    found = _json_in(text)
    lines = [*_texts(found)] if found is not None else _sentence_lines(text)
    for line in lines:
        words = " ".join(_BULLET.sub("", _clean(line)).split()[:max_words])[:_LONGEST_SENTENCE].strip(_QUOTES + "*_")
        if any(character.isalnum() for character in words):
            return "" if _is_refusal(words) else words
    return ""


def _sentence_lines(text: str) -> Iterator[str]:
    """Lines without their dress; headings last, as they may be all there is."""
    headings = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            continue
        line = _BULLET.sub("", line).strip().strip(_QUOTES)
        if line.startswith("#"):
            headings.append(line.lstrip("# "))
            continue
        line = _undressed(line.replace("**", "").replace("__", ""))
        if line and not line.endswith((":", "：")):
            yield line
    yield from headings


def _undressed(line: str) -> str:
    """A line without "Sure!", "Here is …:" and labels such as "Answer:" before what it says."""
    return _LABEL.sub("", _HERE.sub("", _SURE.sub("", line)))


def parse_names(answer: str, count: int) -> list[str]:
    r"""At most `count` different names of up to four words and 60 characters from an answer: JSON, a table, lines or commas.

    What stands behind a name (a dash, a colon, brackets, bullets below it) explains it. A refusal holds no names.

    >>> parse_names("Sure! Here are five classes you may like:\n1. **Wolf**: a wild dog\n2. red fox, coyote\n", 5)
    ['Wolf', 'red fox', 'coyote']
    """
    text = _bare(answer)
    if _is_refusal(text):
        return []
    found = _json_in(text)
    items = [_clean(item) for item in _texts(found)] if found is not None else [*_name_items(text)]
    names: dict[str, str] = {}
    for item in items:
        name = " ".join(_BULLET.sub("", item).split()).strip(_QUOTES + ".:!?*_[](){}|#")
        if len(name) <= _LONGEST_NAME and len(name.split()) <= 4 and any(character.isalpha() for character in name):
            names.setdefault(name.lower(), name)
    return list(names.values())[:count]


def _name_items(text: str) -> Iterator[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("```", "#"))]
    rows = [line for line in lines if line.lstrip().startswith("|")]
    if len(rows) > 1:  # the first is the heading where a rule follows
        body = rows[2:] if not any(map(str.isalnum, rows[1])) else rows
        yield from (next((cell for cell in row.split("|") if any(map(str.isalpha, cell))), "") for row in body)
        return
    bullets = [line for line in lines if _BULLET.match(line)]
    if len(bullets) > 1:  # what stands between explains, as do bullets below a bullet
        depth = min(map(_indent, bullets))
        lines = [line for line in bullets if _indent(line) <= depth + 1]
    for line in lines:
        if len(lines) > 1 and line.rstrip(" *").endswith((":", "：")):
            continue
        item = _SURE.sub("", _BULLET.sub("", line).strip())
        item = _EXPLAINED.split(item, maxsplit=1)[0] if _BULLET.match(line) else _undressed(item)
        yield from _SPLIT.split(re.sub(r"(?<=[\w*])\s*[(（][^()（）]*[)）]", "", item))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _json_in(text: str) -> Any:
    """The JSON of an answer, fenced or in prose; None where there is none."""
    for first, last in (("[", "]"), ("{", "}")):
        start, end = text.find(first), text.rfind(last)
        other = text.find("{" if first == "[" else "[")
        if 0 <= start < end and not (first == "{" and 0 <= other < start):
            try:
                return json.loads(text[start : end + 1])
            except (ValueError, RecursionError):
                continue
    return None


def _texts(found: Any) -> Iterator[str]:
    """The strings of a list, of its objects the first each, and of an object all, or those of its first list."""
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if lists else list(found.values())
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, dict):
            item = next((value for value in item.values() if isinstance(value, str)), None)
        if isinstance(item, str):
            yield item


def _is_refusal(text: str) -> bool:
    return bool(_REFUSALS.match(text.lstrip(_QUOTES + "*_#\n\t-")))


def _bare(answer: str | None) -> str:
    """The answer without thoughts, of which the opening tag may be missing; cut within them nothing is left."""
    text = str(answer or "").replace("◁", "<").replace("▷", ">")
    channels = list(_CHANNEL.finditer(text))
    if channels:
        text = text[channels[-1].end() :] if channels[-1].group(1) == "final" else ""
        text = text.split("<|", 1)[0]
    text = text[max((end.end() for end in _THOUGHT_ENDS.finditer(text)), default=0) :]
    begin = _THOUGHT_BEGINS.search(text)
    return _clean(text[: begin.start()] if begin else text).rstrip().lstrip("\n")


def _clean(text: str) -> str:
    return "".join(c for c in text[:_LONGEST] if c in "\n\t" or unicodedata.category(c)[0] != "C")
