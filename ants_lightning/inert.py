"""Text that does nothing where it is shown: no control characters, no line breaks."""

import unicodedata


def one_line(text: str) -> str:
    r"""A text as one printable line: white space folded, control and format characters and lone surrogates left out.

    >>> one_line(" a red\n\x1b[31mbird\t")
    'a red [31mbird'
    """
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())
