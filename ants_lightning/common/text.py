"""Text that is safe to show: names and answers lose control characters and line breaks, also in the log."""

import logging
import sys
import traceback
import unicodedata
from pathlib import Path
from types import TracebackType


def one_line(text: str) -> str:
    r"""A text as one printable line.

    Each run of white space and control characters becomes one space; what else cannot be printed is left out,
    such as format characters and lone surrogates.

    >>> one_line(" a red\n\x1b[31mbird\t")
    'a red [31mbird'
    """
    return " ".join("".join(map(_printable, text)).split())


def _printable(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cc":
        return " "
    return "" if kind[0] == "C" else character


def inert_record(record: logging.LogRecord) -> bool:
    """A logging filter that makes a message one printable line; it lets every record pass.

    Messages may hold file names and answers of an MLLM. Records of other libraries keep their line breaks.
    """
    message = record.getMessage()
    own = record.name.split(".")[0] == __name__.split(".")[0]
    clean = _clean(message) if own else _lines(message)
    if clean != message:
        record.msg, record.args = clean, None
    return True


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` like Python's own, with printable lines: a message may quote a file name."""
    sys.stderr.write(_lines("".join(traceback.format_exception(kind, error, trace))))


def filter_loggers(folder: Path) -> None:
    """Add `inert_record` to the logger of each module of a package, imported or not.

    A filter of the package's own logger would not see their records.
    """
    for path in folder.rglob("*.py"):
        name = ".".join([folder.name, *path.relative_to(folder).with_suffix("").parts])
        logging.getLogger(name.removesuffix(".__init__")).addFilter(inert_record)


def _lines(text: str) -> str:
    return "\n".join(map(_clean, text.split("\n")))


def _clean(line: str) -> str:
    return line if line.isprintable() else one_line(line)  # a printable line keeps its spaces
