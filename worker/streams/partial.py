"""The JSON so far, read from a text that is still being written.

To parse all of it at every piece would cost the square of its length. So a character that arrives
pays for the parsing of 32, and the text is parsed when that much has been paid: in all at most 32
times its length, however it is cut into pieces. So are the values, which a page is sent whole. They
come more and more rarely: every 32 characters at a thousand, every 320 at ten thousand.
"""

from __future__ import annotations

from typing import Any, Final

import jiter

#: Characters that may be parsed for each that arrives.
_PARSED_FOR_EACH = 32


class _Nothing:
    """No value yet, or none that is new."""

    def __bool__(self) -> bool:
        return False


NOTHING: Final = _Nothing()


class PartialJson:
    """Takes a text piece by piece and tells what its JSON object holds so far.

    What stands in front of the first `{` is ignored, such as a Markdown fence. Strings and lists
    may be cut short, and numbers too; objects lack the fields that are still to come. Nothing is
    validated: only the result is.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._credit = 0
        self._last: Any = NOTHING
        #: Characters parsed so far, in bytes: what the bound is about.
        self.parsed = 0

    def feed(self, piece: str) -> Any:
        """Take the next piece; returns the value if it has changed, and otherwise `NOTHING`."""
        encoded = piece.encode(errors="replace")
        if not self._text:
            start = encoded.find(b"{")
            if start < 0:
                return NOTHING
            encoded = encoded[start:]
        self._text += encoded
        self._credit += _PARSED_FOR_EACH * len(encoded)
        if self._credit < len(self._text):
            return NOTHING
        value = self._parse()
        if value is NOTHING or value == self._last:
            return NOTHING
        self._last = value
        return value

    def clear(self) -> None:
        """Forget the text: it begins anew."""
        self._text.clear()
        self._credit = 0
        self._last = NOTHING

    def _parse(self) -> Any:
        self._credit = 0
        self.parsed += len(self._text)
        try:
            return jiter.from_json(
                bytes(self._text), partial_mode="trailing-strings", allow_inf_nan=False
            )
        except ValueError:  # not JSON, or not yet
            return NOTHING
