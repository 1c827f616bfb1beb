"""Faults that strike chosen requests: what can go wrong, and which request it happens to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
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

Target = Literal[
    "message",  # a request to /v1/messages
    "batch_create", "batch_list", "batch_get", "batch_results", "batch_cancel", "batch_delete",
    "batch_item",  # a request inside of a batch, when it is processed
]  # fmt: skip


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
    """One scripted fault. `match`, `stream`, `times` and `rate` say which requests it strikes, and
    the rest what happens.

    All fields can be combined, except for the five endings `cut`, `stall`, `swallow`, `eof` and
    `sse_error`, of which one request can have only one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: Target = "message"
    """What it strikes. For batches, a GET's `match` looks at its path."""
    match: str | None = None
    """Only requests whose body contains this text (as JSON, so quotes are escaped). None = all."""
    stream: bool | None = None
    """Only requests that are streamed, or only those that are not. None = both."""
    times: int | None = Field(default=1, ge=1)
    """Number of requests that it strikes. None = no end."""
    rate: float = Field(default=1.0, ge=0, le=1)
    """Share of the matching requests that it strikes, chosen by the server's seed, the body and
    how often that body came before – so not by the order in which requests arrive."""

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
    swallow: bool = False
    """Send nothing more from `at` on, until the client gives up: the call landed, and is billed."""
    eof: bool = False
    """End the response properly at `at`, without what should follow (`message_stop`)."""
    sse_error: SseError | None = None
    """Send an `error` event at `at` and end the stream."""
    at: Literal["start", "headers"] | Point | None = None
    """Where `cut`, `stall`, `swallow`, `eof` or `sse_error` happens: before the response, after its
    headers, or after so much of its body. None = `start` for the first three, `{"events": -1}` for
    eof and `{"events": 4}` for sse_error."""
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
    result: Literal["expired", "canceled"] | None = None
    """With `on="batch_item"`: the item ends so, unprocessed. (`status` makes it `errored`.)"""

    @model_validator(mode="after")
    def _one_ending(self) -> Fault:
        if sum(map(bool, self._endings())) > 1:
            raise ValueError("give only one of cut, stall, swallow, eof and sse_error")
        return self

    @property
    def breaks_off(self) -> bool:
        """Whether the reply does not come through to its end."""
        return any(self._endings())

    def _endings(self) -> tuple[object, ...]:
        return self.cut, self.stall, self.swallow, self.eof, self.sse_error

    @property
    def name(self) -> str:
        """What it does in a word or two, for the ledger."""
        fields = ("status", "cut", "stall", "swallow", "eof", "sse_error", "trickle", "broken_json",
                  "content", "stop_reason", "reply", "result", "delay")  # fmt: skip
        for field in fields:
            value = getattr(self, field)
            if value:
                return (
                    f"{field}:{value}"
                    if field in ("status", "content", "stop_reason", "result")
                    else field
                )
        return "none"


_64_BITS = 2**64 - 1


@dataclass(slots=True)
class _Scripted:
    """A fault with the times it has left. `number` counts those scripted since the last clear."""

    fault: Fault
    number: int
    match: bytes
    left: int | None


class FaultScript:
    """The faults to come, in order: the first one that matches and has times left strikes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._scripted: list[_Scripted] = []
        self._number = 0
        self._seen: Counter[str] = Counter()

    def append(self, faults: Iterable[Fault]) -> None:
        """Add faults after those that are there."""
        for fault in faults:
            match = (fault.match or "").encode()
            self._scripted.append(_Scripted(fault, self._number, match, fault.times))
            self._number += 1

    def clear(self) -> None:
        """Nothing more goes wrong, and chance begins anew."""
        self._scripted.clear()
        self._seen.clear()
        self._number = 0

    def remaining(self) -> list[dict[str, object]]:
        """The faults that can still strike, with the times they have left."""
        return [
            one.fault.model_dump(exclude_defaults=True, mode="json") | {"times": one.left}
            for one in self._scripted
        ]

    def strike(
        self, body: bytes, sha256: str, *, stream: bool, on: Target = "message"
    ) -> Fault | None:
        """The fault that a request with this body meets, if any; it uses up one of its times."""
        if not self._scripted:
            return None
        turn = self._seen[sha256]
        self._seen[sha256] += 1
        drawn = hashlib.blake2b(f"{self._seed} {turn} {sha256}".encode(), digest_size=8).digest()
        luck = int.from_bytes(drawn)
        for one in self._scripted:
            fault = one.fault
            if fault.on != on or one.match not in body or fault.stream not in (None, stream):
                continue
            if fault.rate < 1 and _chance(luck, one.number) >= fault.rate:
                continue
            if one.left is not None:
                one.left -= 1
                if one.left == 0:
                    self._scripted.remove(one)
            return fault
        return None


def _chance(luck: int, number: int) -> float:
    """0 to 1 for fault `number` of a request: SplitMix64, the `number`th output from `luck`.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014). A mix has dozens of
    faults, and a hash for each would cost more than the reply.
    """
    z = (luck + (number + 1) * 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return (z ^ (z >> 31)) / 2**64
