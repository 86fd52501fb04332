"""Text that does nothing where it is shown: no control characters, no line breaks; also in what is logged."""

import logging
import sys
import traceback
import unicodedata
from pathlib import Path
from types import TracebackType


def one_line(text: str) -> str:
    r"""A text as one printable line: white space folded; control and format characters and lone surrogates left out.

    >>> one_line(" a red\n\x1b[31mbird\t")
    'a red [31mbird'
    """
    return " ".join("".join(map(_printable, text)).split())


def _printable(character: str) -> str:
    kind = unicodedata.category(character)
    return " " if kind == "Cc" else "" if kind[0] == "C" else character


def inert_record(record: logging.LogRecord) -> bool:
    """A logging filter that drops nothing: the message becomes one printable line, whatever file names and answers are in it.

    Records of other libraries keep their line breaks.
    """
    message = record.getMessage()
    own = record.name.split(".")[0] == __name__.split(".")[0]
    clean = _clean(message) if own else _lines(message)
    if clean != message:
        record.msg, record.args = clean, None
    return True


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: Python's own, whose lines are printable, as a message may name a file or quote an answer."""
    sys.stderr.write(_lines("".join(traceback.format_exception(kind, error, trace))))


def filter_loggers(folder: Path) -> None:
    """Give the logger of each module of a package that filter, imported or not: one on the package's own would not see theirs."""
    for path in folder.rglob("*.py"):
        name = ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        logging.getLogger(name).addFilter(inert_record)


def _lines(text: str) -> str:
    return "\n".join(map(_clean, text.split("\n")))


def _clean(line: str) -> str:
    return line if line.isprintable() else one_line(line)  # with its spaces, if there is nothing to mend
