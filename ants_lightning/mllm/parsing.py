"""Parsing of what an MLLM answers, which is untrusted text."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from ants_lightning.mllm.refusals import is_courtesy, is_refusal, is_self_talk
from ants_lightning.mllm.undressing import bare, clean, json_in, names_of, text_of, unfenced

_LONGEST_SENTENCE, _LONGEST_NAME = 300, 60  # characters of what comes out
_QUOTES = " \"'`“”‘’«»„"
_NUMBER = (  # 1. 1) (1) 1: 1、 ① 一、 a)
    r"\(?[\d０-９]{1,3}(?:[.):．）](?:\s+|$)|[.)．](?=[^\W\d_])|、\s*)|[①-⑳]\s*|[一二三四五六七八九十]、\s*|"
    r"\(?[a-zA-Z][.)]\s+"
)
_BULLET = re.compile(rf"^\s*(?:>\s*)*(?:(?:[-*•·‣▪◦●○■+→➤✓✔✅–—]+\s+)(?:\[[ xX]?\]\s+)?|{_NUMBER})")
_NUMBERED = re.compile(rf"^\s*(?:>\s*)*(?:{_NUMBER})")
_SURE = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|alright|all right|great|yes|no problem|gladly|got it|"
    r"understood|hello|hi|"
    r"definitely|good question|great question)(?: thing)?(?:\s*[!.,:;]+(?=\s|$)|\s+[-–—](?=\s)|$)\s*",
    re.I,
)
_ROLE = re.compile(r"^(?:assistant|ai|bot|gpt|model|a)\s*[:：]\s*", re.I)
_ASKED = re.compile(r"^(?:user|human|question|q|system|instruction|prompt)\s*[:：]", re.I)
_CORE = """
    object objects subject subjects image images picture pictures photo photograph scene description
    descriptions caption captions answer answers response summary result results output title label labels
    sentence phrase word words name names class classes category categories list item items following
    overview analysis options suggestions examples alternatives text content
"""
_WORDS = """
    here here's here’s heres is are this these that the a an my your its of in for with without using by to
    as it be would could can i you will and or few several some five single simple short brief concise quick
    detailed main primary central key most prominent photos view describing final below above other others
    another different similar visually look looks looking like alike resemble resembles resembling share
    shares features possible potential requested provided given shown depicted visible seen described asked
    option suggestion example alternative common include includes including which might may possibly only
    just up one two three four six seven eight nine ten 5 animals things
"""
_LABEL_CORE = frozenset(_CORE.split())
_LABEL_WORDS = _LABEL_CORE.union(_WORDS.split())
_LABEL_START = re.compile(
    r"^(?:here(?:['’]?s| is| are|)\b|(?:the|a|my|final|short|brief|main)\s+(?:\w+\s+)?"
    r"(?:answer|description|caption|object|subject|summary)\b|(?:answer|description|caption|based on|"
    r"looking at|"
    r"in (?:a few|other) words|the following|some|other|similar|classes|names)\b)",
    re.I,
)
_COLON = re.compile(r"\s*(?::(?=\s|$)|：)\s*")
_EXPLAINED = re.compile(
    r"\s+[-–—]+\s+|\s*—\s*|\s*(?::(?=\s|$)|：)\s*|\s+(?:\(|\[)|[（【]|\s+(?:->|→|=>)\s+"
    r"|(?<!\d)(?<!\bSt)(?<!\b[MD]r)(?<!\bMt)\.\s+(?=[A-Z])"
)
_SPLIT = re.compile(r"[,;、，；،؛\t|•·]|\s(?=\(?\d{1,2}[.)]\s)|\s/\s")
_AND = re.compile(r"(?<![\w-])(?:and|or|&)(?![\w-])", re.I)
_LEADING = re.compile(r"^\W*(?:and|or|&|e\.g\.|such as|including)(?![\w-])\s*", re.I)
_INTRODUCED = re.compile(
    r"^(.{0,160}?\b(?:include|includes|including|such as|are|is|be|namely))(?:\s*:|\s)\s*(?=\S)", re.I
)
_NAME_COLUMN = re.compile(r"\b(?:name|class|label|category|animal|object)")
_MORE = re.compile(r"\b(?:etc\.?|and (?:more|others|so on)|among others|and the like)\W*$", re.I)
_NO_NAMES = (
    "none",
    "n/a",
    "null",
    "nil",
    "unknown",
    "undefined",
    "nothing",
    "other",
    "others",
    "etc",
    "and",
    "or",
    "none of the above",
    "not available",
    "not applicable",
)


def parse_sentence(answer: str, max_words: int = 30) -> str:
    r"""The sentence of an answer as plain text; "" if there is none.

    It has at most `max_words` words and 300 characters.

    That is the first line that is no thought, preamble, heading or label; of JSON its caption. A refusal
    holds none.

    >>> parse_sentence(' "A small  red bird.\n\nIs there anything else?')
    'A small red bird.'
    >>> parse_sentence("<think>Hm.</think>Sure! Here is a description:\n- A red bird.")
    'A red bird.'
    >>> parse_sentence("I'm sorry, but I can't.")
    ''
    """
    text = bare(answer)
    if is_refusal(text) or is_self_talk(text):
        return ""
    found = json_in(text, torn=False)
    if found is not None:
        text = bare(text_of(found))
    for line in _sentence_lines(unfenced(text)):
        sentence = " ".join(line.split()[:max_words])[:_LONGEST_SENTENCE].strip(_QUOTES + "*_")
        if is_refusal(sentence):
            return ""
        if any(character.isalnum() for character in sentence):
            return sentence
    return ""


def _sentence_lines(text: str) -> Iterator[str]:
    """Lines without their dress; headings last, as they may be all there is."""
    headings = []
    for line in text.splitlines():
        line = _plain_line(line)
        heading, line = line.startswith("#"), line.lstrip("# ")
        if "|" in line:  # the row of a table
            line = next(
                (cell for cell in line.split("|") if any(map(str.isalpha, cell)) and not _is_label(cell)), ""
            )
        line = _undressed(_BULLET.sub("", line).strip(_QUOTES))
        if not line or _is_label(line) or is_courtesy(line) or _ASKED.match(line):
            continue
        if heading:
            headings.append(line)
        else:
            yield line
    yield from headings


def _plain_line(line: str) -> str:
    """A line without the marks of bold, code, quotation and list, and the backslashes before marks."""
    line = re.sub(r"\\([\\.\-*_#()\[\]{}!`>+|])", r"\1", line)
    line = re.sub(r"\*\*|__|`|^\s*(?:>\s*)+", "", line)
    return _BULLET.sub("", line, count=1).strip() if not line.lstrip().startswith("#") else line.strip()


def _undressed(line: str) -> str:
    """A line without "Sure!", "Here is …:" and labels such as "Answer:" before what it says."""
    for _ in range(4):
        before = line
        line = _ROLE.sub("", _SURE.sub("", line)).strip(_QUOTES)
        first, *rest = re.split(r"(?<=[.!])\s+", line, maxsplit=1)
        if rest and (is_courtesy(first) or _is_label(first)):
            line = rest[0]
        head, *rest = _COLON.split(line, maxsplit=1)
        if rest and len(head) <= 160 and (_LABEL_START.match(head) or _is_label(head)):
            line = rest[0].strip(_QUOTES + "*")
        if line == before:
            break
    return line


def _is_label(text: str) -> bool:
    """Whether a text only announces another: it ends with a colon, or all its words are those of labels."""
    words = [word.strip("'’\"“”*_.,!()") for word in text.lower().split()]
    words = [word for word in words if word]
    return text.rstrip(" *_").endswith((":", "：")) or (
        set(words) <= _LABEL_WORDS and bool(set(words) & _LABEL_CORE)
    )


def parse_names(answer: str, count: int) -> list[str]:
    r"""At most `count` different names from an answer: JSON, a table, lines or commas.

    A name has up to four words and 60 characters.

    What stands behind a name (a dash, a colon, brackets, bullets below it) explains it. A refusal holds no
    names.

    >>> parse_names("Here are five classes you may like:\n1. **Wolf**: a wild dog\n2. red fox, coyote\n", 5)
    ['Wolf', 'red fox', 'coyote']
    """
    text = bare(answer)
    if is_refusal(text) or is_self_talk(text):
        return []
    found = json_in(text, torn=True)
    if found is None:
        items = list(_name_items(unfenced(text)))
    else:
        items = [bare(name) for name in names_of(found)]
        items = list(_name_items(items[0])) if len(items) == 1 and "," in items[0] else items
    names: dict[str, str] = {}
    for item in items:
        item = "".join(c for c in clean(item) if unicodedata.category(c) != "So")  # emoji
        name = _MORE.sub("", " ".join(_BULLET.sub("", item).split())).strip(_QUOTES + ".:!*_[](){}|#~>")
        good = (
            len(name) <= _LONGEST_NAME
            and 0 < len(name.split()) <= 4
            and any(character.isalpha() for character in name)
        )
        if (
            good
            and name.lower() not in _NO_NAMES
            and not is_refusal(name)
            and not item.rstrip().endswith(("?", "？"))
        ):
            names.setdefault(name.lower(), name)
    return list(names.values())[:count]


def _name_items(text: str) -> Iterator[str]:
    """Pieces of text of which each may be a name, in order."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = [
        line.strip().strip("|").split("|")
        for line in lines
        if line.count("|") > 1 or line.lstrip().startswith("|")
    ]
    if len(rows) > 1:
        yield from _table_names(rows)
        return
    bullets = [line for line in lines if _BULLET.match(line)]
    heads = [line for line in lines if _is_marked(line)]
    level = Counter(line.split(" ")[0].count("#") for line in heads).most_common(1)
    heads = [line for line in heads if line.split(" ")[0].count("#") == level[0][0]]
    if len(heads) > 1:  # what stands below them explains them
        for line in heads:
            yield from _line_names(line, listed=True)
    elif len(bullets) > 1:  # what stands between explains, as do bullets below a bullet
        depth, numbered = _indent(bullets[0]), bool(_NUMBERED.match(bullets[0]))
        for line in bullets:
            if _indent(line) <= depth + 1 and (_NUMBERED.match(line) or not numbered):
                yield from _line_names(line, listed=True)
    else:
        for line in lines:
            if len(lines) == 1 or not (_is_label(line) or line.lstrip().startswith("#")):
                yield from _line_names(line, listed=False)


def _table_names(rows: list[list[str]]) -> Iterator[str]:
    """The names in the rows of a table: in the column that says so, else in the first with letters."""
    body, place = rows, None
    if not any(map(str.isalnum, "".join(rows[1]))):  # the rule below the heading
        body, heading = rows[2:], [_plain_line(cell).lower() for cell in rows[0]]
        place = next((i for i, cell in enumerate(heading) if _NAME_COLUMN.search(cell)), None)
    for row in body:
        cells = [_plain_line(cell) for cell in row]
        named = place is not None and place < len(cells) and any(map(str.isalpha, cells[place]))
        cell = (
            cells[place or 0] if named else next((cell for cell in cells if any(map(str.isalpha, cell))), "")
        )
        if not _is_label(cell):
            yield _EXPLAINED.split(cell, maxsplit=1)[0]


def _is_marked(line: str) -> bool:
    """Whether a line is a heading, or bold as a whole, and no label."""
    line = line.strip().rstrip(":：")
    marked = line.startswith("#") or (line.startswith(("**", "__")) and line.endswith(("**", "__")))
    return marked and not _is_label(_plain_line(line).lstrip("# "))


def _line_names(line: str, listed: bool) -> Iterator[str]:
    """The names in a line; one that is listed below or above others holds "and" only within a name."""
    bold = re.match(
        r"^[\s>#]*(?:\*\*|__|`)([^*_`]+)(?:\*\*|__|`)(?!\s*(?:[,;、，]|and\b|or\b|$))", _BULLET.sub("", line)
    )
    line = bold[1] if bold and not _is_label(bold[1].rstrip(": ")) else _plain_line(line)
    line = _BULLET.sub("", line.lstrip("# "))
    line = _undressed(line) if not listed else _SURE.sub("", line)
    if is_courtesy(line) or _ASKED.match(line):
        return
    introduced = _INTRODUCED.match(line)
    if introduced and set(re.findall(r"\w+", introduced[1].lower())) & _LABEL_CORE and not listed:
        line = line[introduced.end() :]
    line = re.sub(r"(?<=\w)[*_]*\s*(?:[(（][^()（）]*[)）]|\[[^\[\]]*\])", "", line)
    line = _MORE.sub("", _EXPLAINED.split(line, maxsplit=1)[0] if not line.startswith(("[", "(")) else line)
    for item in _SPLIT.split(line):
        yield from [_LEADING.sub("", item)] if listed else _AND.split(item)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
