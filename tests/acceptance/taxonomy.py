"""What can come of a call, row by row: what Claude does, and what must follow.

A row is one job. Its faults strike that job alone, in order; what is listed in `calls` is what the
usage table must say of it afterwards, request by request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Fault = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A usage row: its outcome, whether the reply arrived whole, whether Claude charged for it.

    What arrived whole is priced to the last decimal; what did not has no tokens and no price.
    """

    outcome: str
    complete: bool = False
    billed: bool = False


OK = Call("ok", complete=True, billed=True)
INVALID = Call("invalid_output", complete=True, billed=True)
TRUNCATED = Call("truncated", complete=True, billed=True)
REFUSED = Call("refused", complete=True, billed=True)
RATE_LIMITED = Call("rate_limited")
OVERLOADED = Call("overloaded")
API_ERROR = Call("api_error")
TIMEOUT = Call("timeout")
#: Written and charged for, but never received: the table knows of the call, not of its price.
LATE = Call("timeout", billed=True)
CUT = Call("connection_error", billed=True)
GARBLED = Call("api_error", billed=True)
SHED = Call("overloaded", billed=True)
REFUSED_LATE = Call("rate_limited", billed=True)

#: Versions of summarize_text's prompt that the shipped ones lack (see `prompt_versions`).
ROOMY, TIGHT = "0.1", "0.2"
FALLBACK = "claude-sonnet-5-5"

#: Where calls are told to slow down, the rest of the model's class waits with them.
SHARED = "claude-opus-5-5"

#: Replaced by an HTTP date, two to three seconds after the start of the run.
IN_TWO_SECONDS = "{date}"


@dataclass(frozen=True)
class Row:
    """One job: what happens to its calls, and how it must end."""

    name: str
    faults: list[Fault]
    calls: list[Call]
    state: str = "succeeded"
    error: str | None = None
    attempts: int = 1
    max_attempts: int = 3
    task: str = "summarize_text"
    version: str | None = None
    models: list[str] | None = None
    wait: float = 0.0
    warned: bool = False
    says: str = ""
    prefix: str = ""
    model: str | None = None
    #: "plain" or "streamed", where only one way of receiving a reply can meet it.
    only: str | None = None

    @property
    def marker(self) -> str:
        """In the job's text, and in no other's."""
        return f"[{self.name}]"

    @property
    def input(self) -> dict[str, Any]:
        """The job's input."""
        text = f"{self.prefix}The fox and the dog of {self.marker} never mind each other."
        match self.task:
            case "classify_ticket":
                return {"subject": text, "body": "?", "categories": ["billing", "other"]}
            case "extract_entities":
                return {"text": text, "entity_types": ["animal"]}
        return {"text": text, "max_words": 50, "audience": "everybody"}


def always(fault: Fault) -> list[Fault]:
    return [fault | {"times": None}]


def terminal() -> Iterator[Row]:
    """Errors of the request: no second call."""
    for status, error in {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        422: "invalid_request_error",
    }.items():
        yield Row(f"{status}", always({"status": status}), [API_ERROR], "failed", error)
    advised = {"headers": {"x-should-retry": "false"}}
    for status, error, call in (
        (529, "overloaded", OVERLOADED),
        (500, "api_error", API_ERROR),
        (429, "rate_limited", RATE_LIMITED),
    ):
        fault = {"status": status} | advised
        yield Row(f"{status} x-should-retry: false", always(fault), [call], "failed", error,
                  model=SHARED)  # fmt: skip


def transient() -> Iterator[Row]:
    """Failures that another attempt can mend, met once and met until none is left."""
    html = {"headers": {"content-type": "text/html"}, "body": "<html>Bad gateway</html>"}
    kinds: list[tuple[str, Fault, Call, str]] = [
        ("408", {"status": 408}, TIMEOUT, "timeout"),
        ("409", {"status": 409}, API_ERROR, "conflict_error"),
        ("500", {"status": 500}, API_ERROR, "api_error"),
        ("502", {"status": 502}, API_ERROR, "api_error"),
        ("502 HTML", {"status": 502, **html}, API_ERROR, "http_502"),
        ("503", {"status": 503}, API_ERROR, "api_error"),
        ("504", {"status": 504}, TIMEOUT, "timeout"),
        ("504 billed", {"status": 504, "billed": True}, LATE, "timeout"),
        ("529", {"status": 529}, OVERLOADED, "overloaded"),
        ("cut at the start", {"cut": True, "at": "start"}, CUT, "connection_error"),
        ("cut after the headers", {"cut": True, "at": "headers"}, CUT, "connection_error"),
        ("cut in the body", {"cut": True, "at": {"bytes": 100}}, CUT, "connection_error"),
        ("stalled, cut", {"stall": 0.3, "at": {"bytes": 9}}, CUT, "connection_error"),
        ("200 HTML", {"status": 200, "billed": True, **html}, GARBLED, "malformed_response"),
        ("200 broken JSON", {"broken_json": True}, GARBLED, "malformed_response"),
        ("400 x-should-retry: true", {"status": 400, "headers": {"x-should-retry": "true"}},
         API_ERROR, "invalid_request_error"),
    ]  # fmt: skip
    for name, fault, call, error in kinds:
        model = SHARED if call is OVERLOADED else None
        calls = [call] * 2
        yield Row(f"{name}, once", [fault], [call, OK], attempts=2, model=model)
        yield Row(f"{name}, always", always(fault), calls, "failed", error, 2, max_attempts=2,
                  model=model)  # fmt: skip
    asks = {"status": 503, "headers": {"retry-after": "1"}}
    yield Row("503 retry-after", [asks], [API_ERROR, OK], attempts=2, wait=1.0)


def timeouts() -> Iterator[Row]:
    """No complete reply within the call's time, however busy the line."""
    kinds: list[tuple[str, Fault, Call]] = [
        ("no answer", {"delay": 30.0}, TIMEOUT),
        ("headers only", {"stall": 30.0, "at": "headers"}, LATE),
        ("a byte at a time", {"trickle": 0.1}, LATE),
        ("less than was announced", {"eof": True, "at": {"bytes": 100}}, LATE),
    ]
    for name, fault, call in kinds:
        only = "plain" if "eof" in fault else None  # the end of a stream is seen, not waited for
        yield Row(name, always(fault), [call], "failed", "timeout", max_attempts=1,
                  task="extract_entities", only=only)  # fmt: skip
    yield Row("no answer, once", [{"delay": 30.0}], [TIMEOUT, OK], attempts=2,
              task="extract_entities")  # fmt: skip


def broken_streams() -> Iterator[Row]:
    """What can only happen to a reply that has begun; what had been reported is booked."""
    kinds: list[tuple[str, Fault, Call, str]] = [
        ("cut", {"cut": True, "at": {"events": 4}}, CUT, "connection_error"),
        ("no message_stop", {"eof": True}, CUT, "connection_error"),
        ("stalled", {"stall": 30.0, "at": {"events": 4}}, LATE, "timeout"),
        ("overloaded", {"sse_error": {"type": "overloaded_error"}}, SHED, "overloaded"),
        ("failed", {"sse_error": {"type": "api_error"}}, GARBLED, "api_error"),
    ]
    for name, fault, call, error in kinds:
        model = SHARED if call is SHED else None
        yield Row(f"stream {name}, once", [fault], [call, OK], attempts=2, only="streamed",
                  model=model)  # fmt: skip
        yield Row(f"stream {name}, always", always(fault), [call] * 2, "failed", error, 2,
                  max_attempts=2, only="streamed", model=model)  # fmt: skip
    fault = {"sse_error": {"type": "rate_limit_error"}}
    yield Row("stream rate limited", [fault], [REFUSED_LATE, OK], max_attempts=1, only="streamed",
              model=SHARED)  # fmt: skip


def rate_limits() -> Iterator[Row]:
    """429s: the attempt is given back, and the wait is at least what was asked for."""
    for name, headers, wait in (
        ("seconds", {"retry-after": "1"}, 1.0),
        ("milliseconds", {"retry-after-ms": "700"}, 0.7),
        ("date", {"retry-after": IN_TWO_SECONDS}, 0.0),
        ("nonsense", {"retry-after": "soon"}, 0.0),
        ("negative", {"retry-after": "-5"}, 0.0),
        ("absent", {}, 0.0),
    ):
        fault = {"status": 429, "headers": headers}
        yield Row(f"429 retry-after: {name}", [fault], [RATE_LIMITED, OK], max_attempts=1,
                  wait=wait, model=SHARED)  # fmt: skip
    twice = {"status": 429, "headers": {"retry-after": "0.5"}, "times": 2}
    calls = [RATE_LIMITED, RATE_LIMITED, OK]
    yield Row("429 twice", [twice], calls, max_attempts=1, wait=0.5, model=SHARED)
    ramp = {"status": 429, "error_code": "ramp_limit_exceeded", "headers": {"retry-after": "1"}}
    yield Row("429 ramp limit", [ramp], [RATE_LIMITED, OK], max_attempts=1, wait=1.0,
              model=SHARED)  # fmt: skip
    beyond = {"status": 429, "headers": {"retry-after": "90000"}}
    # On a model of its own: it closes that model's class to the fleet for a day.
    yield Row("429 beyond the deadline", [beyond], [RATE_LIMITED], "failed", "rate_limited",
              model="claude-sonnet-4-5", only="plain")  # fmt: skip


def good_replies() -> Iterator[Row]:
    """Replies that hold an output, whatever they look like: one call."""
    yield Row("valid", [], [OK])
    yield Row("thinking first", [{"content": "thinking_first"}], [OK])
    yield Row("split", [{"content": "split"}], [OK])
    yield Row("fenced", [{"content": "fenced"}], [OK], warned=True)
    yield Row("prose around it", [{"content": "prose"}], [OK], warned=True)
    yield Row("capitalised enum", [{"content": "capitalised_enum"}], [OK],
              task="classify_ticket", warned=True)  # fmt: skip


def unfit_replies() -> Iterator[Row]:
    """Replies that do not fit: one repair an attempt."""
    uncategorised = {
        "category": "none of these", "urgency": "low", "sentiment": "neutral", "summary": "s",
        "needs_human": False,
    }  # fmt: skip
    kinds: list[tuple[str, Fault, str]] = [
        ("missing field", {"content": "missing_field"}, "summarize_text"),
        ("wrong type", {"content": "wrong_type"}, "summarize_text"),
        ("JSON that ends early", {"content": "truncated"}, "summarize_text"),
        ("failing check", {"reply": json.dumps(uncategorised)}, "classify_ticket"),
    ]
    for name, fault, task in kinds:
        yield Row(f"{name}, once", [fault], [INVALID, OK], task=task)
        yield Row(f"{name}, three times", [fault | {"times": 3}], [INVALID] * 3 + [OK],
                  attempts=2, task=task)  # fmt: skip
        yield Row(f"{name}, always", always(fault), [INVALID] * 4, "failed", "invalid_output", 2,
                  max_attempts=2, task=task)  # fmt: skip
    for name, fault in (
        ("empty", {"content": "empty"}),
        ("pause_turn", {"stop_reason": "pause_turn"}),
    ):
        yield Row(f"{name}, once", [fault], [INVALID, OK], attempts=2)
        yield Row(f"{name}, always", always(fault), [INVALID] * 2, "failed", "empty_reply", 2,
                  max_attempts=2)  # fmt: skip
    yield Row("a check that raises", [], [INVALID], "failed", "check_error", prefix="RAISE ")


def refusals() -> Iterator[Row]:
    """Claude declines: asked once more on the fallback model, where the prompt has one."""
    refusal: Fault = {"stop_reason": "refusal"}
    yield Row("refused", always(refusal), [REFUSED], "failed", "refused", says="no category")
    categorised = {
        "model": "claude-haiku-5-5", "content": [], "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "cyber"},
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip
    free = Call("refused", complete=True)
    yield Row("refused, category", always({"status": 200, "body": categorised}), [free],
              "failed", "refused", says="cyber", only="plain")  # fmt: skip
    both = ["claude-haiku-5-5", FALLBACK]
    yield Row("refused, falls back", [refusal], [REFUSED, OK], version=ROOMY, models=both)
    yield Row("refused by both", always(refusal), [REFUSED] * 2, "failed", "refused",
              version=ROOMY, models=both)  # fmt: skip


def truncations() -> Iterator[Row]:
    """A limit on tokens was met: never repaired, asked again with more room where there is some."""
    cut: Fault = {"stop_reason": "max_tokens"}
    yield Row("truncated", always(cut), [TRUNCATED], "failed", "truncated", says="max_tokens")
    yield Row("truncated, enlarged", [cut], [TRUNCATED, OK], version=ROOMY)
    yield Row("truncated at the ceiling", always(cut), [TRUNCATED] * 3, "failed", "truncated",
              version=ROOMY)  # fmt: skip
    # 110 tokens that are really cut: at 40, at 80, and at 160 no more.
    long = json.dumps({"summary": "The dog. " * 20, "key_points": ["The fox minds. " * 15]})
    yield Row("outgrows its room", always({"reply": long}), [TRUNCATED] * 2 + [OK], version=TIGHT)
    window: Fault = {"stop_reason": "model_context_window_exceeded"}
    yield Row("context window exceeded", always(window), [TRUNCATED], "failed", "truncated",
              version=ROOMY, says="model_context_window_exceeded")  # fmt: skip


def unstorable() -> Iterator[Row]:
    """What Postgres cannot store is refused or cleaned: it never leaves a job to be rescued."""
    odd_key: Fault = {"reply": '{"summary": "s", "key_points": [], "a\\u0000b": 1}'}
    yield Row("NUL in a key", always(odd_key), [INVALID] * 2, "failed", "invalid_output",
              max_attempts=1)  # fmt: skip
    for name, text in (("NUL", "a\x00b"), ("a surrogate", "a\ud800b")):
        yield Row(f"{name} in an error", always({"status": 400, "message": text}), [API_ERROR],
                  "failed", "invalid_request_error")  # fmt: skip
    message = {"model": "m", "content": [], "stop_reason": "refusal", "usage": {}}
    for name, change in (
        ("more tokens than there are", {"usage": {"input_tokens": 10**30}}),
        ("fewer tokens than none", {"usage": {"output_tokens": -1}}),
        ("NUL in the model's name", {"model": "m\x00"}),
    ):
        fault = {"status": 200, "body": message | change}
        yield Row(name, [fault], [API_ERROR, OK], attempts=2)


ROWS = [
    *terminal(),
    *transient(),
    *timeouts(),
    *broken_streams(),
    *rate_limits(),
    *good_replies(),
    *unfit_replies(),
    *refusals(),
    *truncations(),
    *unstorable(),
]

#: These pause everything; each is its own test.
SPEND_LIMITS: dict[str, Fault] = {
    "400 usage limits": {
        "status": 400,
        "message": "You have reached your specified API usage limits. You will regain access "
        "on 2026-12-01 at 00:00 UTC.",
    },
    "402": {"status": 402},
    "429 enforced": {
        "status": 429,
        "error_code": "enforced_spend_limit_reached",
        "headers": {"retry-after": "0"},
    },
    "429 contract": {"status": 429, "error_code": "contract_spend_limit_reached"},
}


def prompt_versions() -> dict[str, str]:
    """The TOML of the versions named above; lower than 1.0, so that they are nobody's current."""
    texts = """
system = "Summarise: {{ output_schema }}"
template = "<text>{{ text }}</text> in {{ max_words }} words for {{ audience }}"
"""
    roomy = (
        f'model = "claude-haiku-5-5"\nmax_tokens = 1000\nmax_tokens_ceiling = 4000\n'
        f'fallback_model = "{FALLBACK}"\n'
    )
    tight = 'model = "claude-haiku-5-5"\nmax_tokens = 40\nmax_tokens_ceiling = 640\n'
    return {ROOMY: roomy + texts, TIGHT: tight + texts}
