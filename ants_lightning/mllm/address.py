"""The address of an MLLM server: what of it may be shown, and what may not."""

import os
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit


class Address:
    """A server's address, taken apart into what may be shown and what may not.

    Args:
        base_url: what the user gave, perhaps with user, password and query.

    Attributes:
        url: the address without user, password and query.
        where: host and port, as messages show them.
        query: its parameters.
        user: `user:password`, or "".

    Raises:
        ValueError: if it is no HTTP address.
    """

    def __init__(self, base_url: str) -> None:
        try:
            parts = urlsplit(base_url)
            host = parts.hostname if parts.port != 0 else None
        except ValueError:  # a port that is no number, a bracket that is not closed
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise ValueError(f"base_url must be like http://host:port/v1, got {_without_user(base_url)!r}")
        self.where = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, self.where, parts.path.rstrip("/"), "", ""))
        self.query = dict(parse_qsl(parts.query))
        has_user = "@" in parts.netloc
        self.user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if has_user else ""

    def others(self) -> list[str]:
        """Addresses that the user may have meant."""
        parts = urlsplit(self.url)
        short = self.url.removesuffix("/completions").removesuffix("/chat")
        likely = dict.fromkeys([f"{self.url}/v1", short, f"{parts.scheme}://{parts.netloc}/v1"])
        return [address for address in likely if address != self.url]

    def without_secrets(self, text: str) -> str:
        """A text with an ellipsis in place of the key, the password and the query."""
        for secret in (api_key(), self.user.partition(":")[2], *self.query.values()):
            if len(secret) > 4:  # a shorter one may be a word of the text, such as "none"
                text = text.replace(secret, "…")
        return text


def api_key() -> str:
    """The user's key, or "none": the client insists on one, servers of one's own do not."""
    return os.environ.get("OPENAI_API_KEY", "").strip() or "none"


def _without_user(url: str) -> str:
    start, _, end = str(url).rpartition("@")
    return f"{start.partition('://')[0]}://…@{end}" if start else end
