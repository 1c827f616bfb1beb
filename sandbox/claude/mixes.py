"""Named mixes of random faults, in proportions that a bad day may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.claude.faults import Fault

DEFAULT_RATE = 0.2
DEFAULT_HOLD = 2.0

_HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"
_HOLD = "hold"
"""Stands for the seconds that `mix` holds a silent connection for."""

Weighted = tuple[float, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FaultMix:
    """Faults with their weights: those that strike any request, a streamed one, a plain one.

    The weights of `streamed` and `plain` have equal sums, so that either kind of request meets a
    fault equally often.
    """

    common: tuple[Weighted, ...]
    streamed: tuple[Weighted, ...]
    plain: tuple[Weighted, ...]


def _error(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "message": message, **more}


_TRANSIENT: tuple[Weighted, ...] = (
    (20, {"status": 529}),
    (20, {"status": 429, "headers": {"retry-after": "1"}}),
    (3, {"status": 429, "error_code": "ramp_limit_exceeded", "headers": {"retry-after": "2"}}),
    (8, {"status": 500}),
    (3, {"status": 502, "headers": {"content-type": "text/html"}, "body": _HTML}),
    (3, {"status": 503}),
    (2, {"status": 504}),
    (3, {"status": 504, "billed": True}),
    (1, {"status": 408}),
    (1, {"status": 409}),
    (1, {"status": 500, "headers": {"x-should-retry": "true"}}),
    (1, {"status": 200, "headers": {"content-type": "text/html"}, "body": _HTML}),
    (2, {"delay": _HOLD}),
    # The call landed and is billed, but its reply does not come.
    (3, {"cut": True}),
    (2, {"cut": True, "at": "headers"}),
    (3, {"stall": _HOLD}),
    (1, {"stall": _HOLD, "at": "headers"}),
)
_TERMINAL: tuple[Weighted, ...] = (
    (0.5, _error(400, "messages.0.content: Input should be a valid string")),
    (0.1, _error(401, "invalid x-api-key")),
    (0.1, _error(403, "Your API key does not have permission to use the specified resource.")),
    (0.1, _error(404, "model: claude-imaginary")),
    (0.1, _error(413, "Request exceeds the maximum size of 32 MB")),
    (0.1, _error(422, "The request could not be processed")),
    (0.2, {"status": 500, "headers": {"x-should-retry": "false"}}),
)
_CONTENT: tuple[Weighted, ...] = (
    (3, {"content": "fenced"}),
    (2, {"content": "prose"}),
    (2, {"content": "missing_field"}),
    (3, {"content": "wrong_type"}),
    (2, {"content": "capitalised_enum"}),
    (1, {"content": "truncated"}),
    (1, {"content": "empty"}),
    (2, {"content": "thinking_first"}),
    (2, {"content": "split"}),
    (1, {"stop_reason": "max_tokens", "content": "truncated"}),
    (0.5, {"stop_reason": "model_context_window_exceeded", "content": "truncated"}),
    (0.5, {"stop_reason": "pause_turn"}),
    (1, {"stop_reason": "refusal"}),
)
_STREAMED: tuple[Weighted, ...] = (
    (3, {"sse_error": {"type": "overloaded_error", "message": "Overloaded"}}),
    (2, {"cut": True, "at": {"events": 5}}),
    (2, {"stall": _HOLD, "at": {"events": 5}}),
    (1, {"eof": True}),
    (1, {"eof": True, "at": {"events": 4}}),
    (1, {"broken_json": True}),
)
_PLAIN: tuple[Weighted, ...] = (
    (4, {"cut": True, "at": {"bytes": 40}}),
    (3, {"stall": _HOLD, "at": {"bytes": 40}}),
    (3, {"broken_json": True}),
)
_ACCOUNT: tuple[Weighted, ...] = (
    (
        1,
        _error(
            400,
            "You have reached your specified API usage limits. "
            "You will regain access on 2030-01-01 at 00:00 UTC.",
        ),
    ),
    (1, _error(402, "Your credit balance is too low to access the Claude API.")),
    (1, _error(429, "Spend limit reached.", error_code="enforced_spend_limit_reached")),
    (1, _error(429, "Spend limit reached.", error_code="contract_spend_limit_reached")),
)

FAULT_MIXES = {
    "rough": FaultMix((*_TRANSIENT, *_TERMINAL, *_CONTENT), _STREAMED, _PLAIN),
    "network": FaultMix(
        tuple(one for one in _TRANSIENT if one[1].keys() & {"cut", "stall", "delay"}),
        _STREAMED,
        _PLAIN,
    ),
    "content": FaultMix(_CONTENT, (), ()),
    "everything": FaultMix(
        (*_TRANSIENT, *_TERMINAL, *_CONTENT, *_ACCOUNT, (1, {"swallow": True})),
        _STREAMED,
        _PLAIN,
    ),
}
"""`rough` is all that can happen to one request. `everything` adds what stops a whole account –
spend caps, after which somebody has to act – and replies that never come."""


def mix(name: str, rate: float = DEFAULT_RATE, *, hold: float = DEFAULT_HOLD) -> list[Fault]:
    """Faults without end that strike a share `rate` of the requests, as the mix `name` weighs them.

    `hold`: seconds for which a connection stays silent before it is closed. The share is exact: as
    only the first fault that wants a request strikes it, the rates of later ones make up for that.
    """
    if name not in FAULT_MIXES:
        raise ValueError(f"no fault mix {name!r}; there are {', '.join(FAULT_MIXES)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of a fault mix is between 0 and 1, not {rate}")
    chosen = FAULT_MIXES[name]
    total = sum(weight for weight, _ in (*chosen.common, *chosen.plain))
    faults: list[Fault] = []
    common = _ranked(chosen.common, rate / total, 0.0, hold, faults, None)
    _ranked(chosen.streamed, rate / total, common, hold, faults, True)
    _ranked(chosen.plain, rate / total, common, hold, faults, False)
    return faults


def _ranked(
    weighted: tuple[Weighted, ...],
    share: float,
    taken: float,
    hold: float,
    faults: list[Fault],
    stream: bool | None,
) -> float:
    """Append the faults; `taken` is what those before them strike, and is returned grown."""
    for weight, what in weighted:
        filled = {name: hold if value == _HOLD else value for name, value in what.items()}
        chance = min(1.0, weight * share / (1 - taken)) if taken < 1 else 0.0
        fields = {**filled, "rate": chance, "times": None, "stream": stream}
        faults.append(Fault.model_validate(fields))
        taken += weight * share
    return taken
