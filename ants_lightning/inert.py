"""Text that does nothing where it is shown: no control characters, no line breaks."""

import unicodedata


def one_line(text: str) -> str:
    r"""A text as one printable line: white space folded; control and format characters and lone surrogates left out.

    >>> one_line(" a red\n\x1b[31mbird\t")
    'a red [31mbird'
    """
    return " ".join("".join(map(_printable, text)).split())


def _printable(character: str) -> str:
    kind = unicodedata.category(character)
    return " " if kind == "Cc" else "" if kind[0] == "C" else character
