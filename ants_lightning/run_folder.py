"""`RunFolder`: the folder that one run writes to. What this package did not write there is never replaced or removed."""

import hashlib
import re
from urllib.parse import quote

_LONGEST = 120  # bytes of a file name, so that there is room for suffixes
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{i}" for kind in ("COM", "LPT") for i in range(10))}  # of Windows


def file_name(name: str) -> str:
    """A file name of at most 120 ASCII characters for any text; another for each: as in a URL, or shortened, with a hash.

    >>> file_name("near set/2"), file_name("..")
    ('near%20set%2F2', '__=5ec1f7e700f37c3d')
    """
    quoted = quote(name, safe="", errors="surrogatepass")
    is_device = quoted.split(".")[0].upper() in _DEVICES
    if quoted and len(quoted) <= _LONGEST and not is_device and not quoted.endswith("."):
        return quoted
    mark = "=" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]  # no quoted text holds a "="
    head = re.sub("%[^%]?$", "", quoted[: _LONGEST - len(mark)])
    return head.replace(".", "_") + mark
