"""Faults that strike chosen requests: what can go wrong, and which request it happens to."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "pause_turn", "refusal",
    "model_context_window_exceeded",
]  # fmt: skip

Content = Literal[
    "empty",  # no content block at all
    "thinking_first",  # a thinking block before the text
    "split",  # the text spread over three blocks
    "fenced",  # JSON in a Markdown code fence
    "prose",  # JSON with sentences around it
    "missing_field",  # an object lacks a required property
    "wrong_type",  # a value has another type than the schema says
    "capitalised_enum",  # an enum's value in capitals
    "truncated",  # JSON that ends halfway, although stop_reason says end_turn
]


class Point(BaseModel):
    """How much of a reply is sent before something happens to it: so many bytes, or SSE events.

    Negative events count from the end (-1: all but `message_stop`). A reply that is not streamed
    has no events: it breaks in the middle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int | None = Field(default=None, ge=0)
    events: int | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Point:
        if (self.bytes is None) == (self.events is None):
            raise ValueError("give either bytes or events")
        return self


class SseError(BaseModel):
    """An `error` event in the middle of a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = "overloaded_error"
    message: str = "Overloaded"


class Fault(BaseModel):
    """One scripted fault. Which requests: `match`, `times`, `rate`; the rest says what happens.

    All fields can be combined, except for the four endings `cut`, `stall`, `eof` and `sse_error`,
    of which one request can have only one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str | None = None
    """Only requests whose body contains this text (as JSON, so quotes are escaped). None = all."""
    times: int | None = Field(default=1, ge=1)
    """Number of requests that it strikes. None = no end."""
    rate: float = Field(default=1.0, ge=0, le=1)
    """Share of the matching requests that it strikes, chosen by the server's seed."""

    delay: float = Field(default=0.0, ge=0)
    """Seconds to wait before anything else happens, on top of the latency."""

    status: int | None = Field(default=None, ge=200, le=599)
    """Answer with this status instead of a generated reply."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Extra headers, with any status."""
    body: Any = None
    """With `status`: text is sent as it is, anything else as JSON. None = Claude's error body."""
    error_type: str | None = None
    """`error.type` of Claude's error body. None = the one that goes with the status."""
    error_code: str | None = None
    """`error.details.error_code` of Claude's error body."""
    message: str | None = None
    """`error.message` of Claude's error body."""
    billed: bool = False
    """Bill the request although `status` replaces its reply, as a 504 may be."""

    cut: bool = False
    """Close the connection at `at`."""
    stall: float | None = Field(default=None, gt=0)
    """Send nothing more from `at` on, for so many seconds, then close the connection."""
    eof: bool = False
    """End the response properly at `at`, without what should follow (`message_stop`)."""
    sse_error: SseError | None = None
    """Send an `error` event at `at` and end the stream."""
    at: Literal["start", "headers"] | Point | None = None
    """Where `cut`, `stall`, `eof` or `sse_error` happens: before the response, after its headers,
    or after so much of its body. None = `start` for cut and stall, `{"events": -1}` for eof and
    `{"events": 4}` for sse_error."""
    trickle: float | None = Field(default=None, gt=0)
    """Send the body byte by byte, so many seconds apart."""
    broken_json: bool = False
    """Send half of the reply's JSON as if it were whole; in a stream, of its fourth event."""

    reply: str | None = None
    """The reply's text, literally."""
    stop_reason: StopReason | None = None
    """Report this stop_reason. A `refusal` has no content, unless `reply` gives it some."""
    content: Content | None = None
    """What is wrong with the reply's content."""

    @model_validator(mode="after")
    def _one_ending(self) -> Fault:
        if sum((self.cut, self.stall is not None, self.eof, self.sse_error is not None)) > 1:
            raise ValueError("give only one of cut, stall, eof and sse_error")
        return self

    @property
    def name(self) -> str:
        """What it does in a word or two, for the ledger."""
        fields = ("status", "cut", "stall", "eof", "sse_error", "trickle", "broken_json", "content",
                  "stop_reason", "reply", "delay")  # fmt: skip
        for field in fields:
            value = getattr(self, field)
            if value:
                return (
                    f"{field}:{value}" if field in ("status", "content", "stop_reason") else field
                )
        return "none"


class FaultScript:
    """The faults to come, in order: the first one that matches and has times left strikes."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"faults {seed}")
        self._faults: list[tuple[Fault, bytes]] = []
        self._left: list[int | None] = []

    def append(self, faults: Iterable[Fault]) -> None:
        """Add faults after those that are there."""
        for fault in faults:
            self._faults.append((fault, (fault.match or "").encode()))
            self._left.append(fault.times)

    def clear(self) -> None:
        """Nothing more goes wrong."""
        self._faults.clear()
        self._left.clear()

    def remaining(self) -> list[dict[str, object]]:
        """The faults that can still strike, with the times they have left."""
        return [
            fault.model_dump(exclude_defaults=True, mode="json") | {"times": left}
            for (fault, _), left in zip(self._faults, self._left, strict=True)
        ]

    def strike(self, body: bytes) -> Fault | None:
        """The fault that a request with this body meets, if any; it uses up one of its times."""
        for index, (fault, match) in enumerate(self._faults):
            if match not in body or (fault.rate < 1 and self._rng.random() >= fault.rate):
                continue
            left = self._left[index]
            if left is not None:
                self._left[index] = left - 1
                if left == 1:
                    del self._faults[index], self._left[index]
            return fault
        return None
