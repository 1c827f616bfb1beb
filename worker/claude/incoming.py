"""A streamed message, put together event by event.

`message_start` holds the input's tokens, with cache writes split by lifetime; `message_delta` holds
the stop reason and the output's tokens so far, without that split. A stream that ends without
`message_stop` is a reply that was cut, however clean the end looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from worker.claude.reply import MalformedReply, Name, Reply, StopDetails, Tokens, WireUsage
from worker.claude.sse import EventReader

_NAME: TypeAdapter[str | None] = TypeAdapter(Name | None)


class ErrorEvent(Exception):
    """Claude ended the stream with an error, after its status had been 200."""

    def __init__(self, type_: str, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.headers = headers


class Incoming:
    """A reply on its way. `complete` once `message_stop` has come.

    `on_begin` gets what the first event says of the input, `on_text` each piece of the text.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] = lambda text: None,
        on_begin: Callable[[Tokens], None] = lambda tokens: None,
    ) -> None:
        self._on_text = on_text
        self._on_begin = on_begin
        self._started = time.monotonic()
        self._events = EventReader()
        self._headers: Mapping[str, str] = {}
        self._model: str | None = None
        self._usage: dict[str, Any] = {}
        self._text: list[str] = []
        self._stop_reason: str | None = None
        self._category: str | None = None
        self._first_token_ms: int | None = None
        self.complete = False

    def begin(self, headers: Mapping[str, str]) -> None:
        """Take the response's headers, in lower case.

        Raises:
            MalformedReply: it is not an event stream.
        """
        self._headers = headers
        kind = headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise self._malformed(f"{kind or 'no type'} is no event stream")

    def feed(self, chunk: bytes) -> None:
        """Take what has arrived.

        Raises:
            ErrorEvent: Claude gave up.
            MalformedReply: the bytes are not what the API sends.
        """
        try:
            for data in self._events.feed(chunk):
                self._take(from_json(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._malformed(f"a malformed stream ({type(error).__name__})") from None

    def reply(self) -> Reply | None:
        """What has come so far; None before the stream has begun."""
        if self._model is None:
            return None
        usage = WireUsage.model_validate(self._usage)
        return Reply(
            text="".join(self._text),
            stop_reason=self._stop_reason,
            model=self._model,
            tokens=Tokens.from_usage(usage),
            service_tier=usage.service_tier,
            request_id=self._headers.get("request-id"),
            latency_ms=self._milliseconds(),
            first_token_ms=self._first_token_ms,
            refusal_category=self._category,
            headers=self._headers,
        )

    def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "content_block_delta":
                if self._first_token_ms is None:
                    self._first_token_ms = self._milliseconds()
                self._add(event["delta"].get("text"))
            case "content_block_start":
                # Empty as a rule; a block may begin with text all the same.
                self._add(event["content_block"].get("text"))
            case "message_start":
                message = event["message"]
                self._usage = _checked(message["usage"])
                self._model = _NAME.validate_python(message["model"])
                self._on_begin(Tokens.from_usage(WireUsage.model_validate(self._usage)))
            case "message_delta":
                delta = event["delta"]
                self._stop_reason = _NAME.validate_python(delta["stop_reason"])
                if details := delta.get("stop_details"):
                    self._category = StopDetails.model_validate(details).category
                # Null stands for "as before", as does what is missing.
                known = {k: v for k, v in event.get("usage", {}).items() if v is not None}
                self._usage = _checked(self._usage | known)
            case "message_stop":
                self.complete = self._model is not None
            case "error":
                error = event["error"]
                raise ErrorEvent(str(error["type"]), str(error.get("message", "")), self._headers)

    def _add(self, text: object) -> None:
        if not isinstance(text, str | None):
            raise TypeError("text that is none")
        if text:
            self._text.append(text)
            self._on_text(text)

    def _malformed(self, how: str) -> MalformedReply:
        return MalformedReply(how, self._headers.get("request-id"))

    def _milliseconds(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def _checked(usage: dict[str, Any]) -> dict[str, Any]:
    WireUsage.model_validate(usage)
    return usage
