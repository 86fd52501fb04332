"""Output to terminals and logs of any encoding."""

import sys
from typing import Any, TextIO


class Lenient:
    """A text stream that writes "?" for what its encoding cannot express, in place of raising.

    Args:
        stream: None: what `sys.stdout` is at the time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._given = stream

    def _stream(self) -> TextIO:
        stream = self._given or sys.stdout
        # While rich shows a bar, stdout writes to its console: to this
        return getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        """Write a text."""
        stream = self._stream()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        return stream.write(text.encode(encoding, "replace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)
