"""What all pages share: templates that escape, texts of others made inert, a file's policy."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import b64encode
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

#: Characters that change how others are shown, or show nothing themselves. Joiners stay: words of
#: some languages, and some emoji, need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> Markup:
    """The text for a page: markup is inert, and a character that cannot be seen is named."""
    parts, at = [], 0
    for found in _UNSEEN.finditer(text):
        code = ord(found.group())
        name = unicodedata.name(found.group(), "control character")
        parts.append(escape(text[at : found.start()]))
        parts.append(
            Markup('<span class="unseen" title="{}">U+{}</span>').format(name, f"{code:04X}")
        )
        at = found.end()
    return Markup("").join([*parts, escape(text[at:])])


def shorten(text: str, most: int = 80) -> str:
    """A name that is as long as some make them, cut to what tells it from others."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def plain(text: str) -> str:
    """The text for a terminal: on one line, with the characters named that cannot be seen."""
    named = _UNSEEN.sub(lambda found: f"<U+{ord(found.group()):04X}>", text)
    return " ".join(named.split())


def templates(folder: Path) -> Environment:
    """Templates that escape what they are given, and fail for what they are not."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def source_hash(text: str) -> str:
    """What a Content-Security-Policy calls a style or a script of its page."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
