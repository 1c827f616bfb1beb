"""Where a webhook may point."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LONGEST = 2048


def malformed_url(url: str) -> str | None:
    """What is wrong with a webhook's URL as such, without the URL; None when nothing is.

    Whether its host may be called is found out when it is: names can be pointed anywhere later on.
    """
    if len(url) > _LONGEST:
        return f"has {len(url):,} characters; {_LONGEST:,} are the most"
    if not re.fullmatch(r"[!-~]+", url):
        return "has characters that must be %-encoded"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # an unclosed bracket, a port that is none
        return "is malformed: expected https://host/path"
    if parts.scheme not in ("http", "https") or not host:
        return "is malformed: expected https://host/path"
    return None
