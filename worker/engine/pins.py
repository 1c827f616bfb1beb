"""Pinning a job to a prompt version: by name (`1.2`), or by content as well (`1.2@5f0a2c9d1b7e`).

What follows the @ is the beginning of the content's hash. A version that is still being written
changes under its name; with the hash, a job gets the very text that was meant.
"""

from __future__ import annotations

import re

from worker.engine.prompts import Prompt
from worker.errors import InvalidInput

#: Characters of a hash that tell one content from all others.
SHORT_HASH = 12
_PIN = re.compile(r"([^@]+)(?:@([0-9a-f]{12,64}))?")


def parse_pin(pin: str) -> tuple[str, str]:
    """The version and the beginning of the hash ("" when any content will do).

    Raises:
        InvalidInput: what follows the @ is no hash.
    """
    found = _PIN.fullmatch(pin)
    if found is None:
        raise InvalidInput(
            f"prompt version {pin!r}: after the @ come {SHORT_HASH} to 64 hexadecimal digits"
        )
    return found[1], found[2] or ""


def pin_to(prompt: Prompt) -> str:
    """The pin to this very content."""
    return f"{prompt.version}@{prompt.sha256[:SHORT_HASH]}"
