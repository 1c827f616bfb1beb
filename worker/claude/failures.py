"""Which failure of a call means what.

Classified on the status code and the error's `type` and `error_code`, not on exception classes,
which the SDK has renamed before – and which do not cover a socket that is cut, a page of HTML or
half a message. What follows from a failure is decided in `worker.engine.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError

import anthropic
import httpx2
from pydantic import ValidationError

from worker.claude.facts import CallFacts, Kind, Reason
from worker.errors import Failure

#: 429s that are no rate limits: waiting does not help.
_SPEND_CODES = {"enforced_spend_limit_reached", "contract_spend_limit_reached"}
_SPEND_TEXT = "reached your specified api usage limits"

_TRANSIENT_STATUSES = {408, 409, 500, 502, 503, 504, 529}
_TRANSIENT_TYPES = {"overloaded_error", "api_error", "timeout_error"}

#: The usage row's outcome, by the error's type (it counts inside a stream, where the status is
#: 200) and by status.
_OUTCOMES_BY_TYPE = {"rate_limit_error": "rate_limited", "overloaded_error": "overloaded"}
_OUTCOMES_BY_STATUS = {408: "timeout", 429: "rate_limited", 504: "timeout", 529: "overloaded"}

_ABORTS = {
    "timeout": ("timeout", "no complete reply within the task's call timeout"),
    "cancelled": ("interrupted", "cancelled while Claude was writing"),
    "lost": ("interrupted", "another worker has the job"),
    "shutdown": ("interrupted", "the worker is shutting down"),
}


class CallFailed(Exception):
    """A call to Claude produced no usable reply.

    Attributes:
        outcome: the usage row's outcome.
        failure: what is kept with the job.
        facts: what the retry policy decides on.
        latency_ms: from sending the request to the failure.
    """

    def __init__(
        self, outcome: str, failure: Failure, facts: CallFacts, latency_ms: int | None = None
    ) -> None:
        super().__init__(failure.summary)
        self.outcome = outcome
        self.failure = failure
        self.facts = facts
        self.latency_ms = latency_ms


def aborted(reason: Reason, latency_ms: int) -> CallFailed:
    """The failure of a call that this process ended."""
    outcome, summary = _ABORTS[reason]
    kind: Kind = "transient" if reason == "timeout" else "aborted"
    name = "timeout" if reason == "timeout" else "interrupted"
    return CallFailed(outcome, Failure(name, summary), CallFacts(kind, aborted=reason), latency_ms)


def classify(error: Exception, latency_ms: int | None = None) -> CallFailed:
    """Turn whatever a call raised into a `CallFailed`.

    Raises:
        Exception: `error` itself, when it is none of the ways in which a call can fail.
    """
    match error:
        case anthropic.APIStatusError():
            return _from_status(error, latency_ms)
        case anthropic.APITimeoutError() | httpx2.TimeoutException():
            return _no_response("timeout", "no reply in time", error, latency_ms)
        case anthropic.APIConnectionError() | httpx2.HTTPError():
            return _no_response("connection_error", "connection lost", error, latency_ms)
        case ValidationError() | JSONDecodeError() | UnicodeDecodeError():
            failure = Failure("malformed_response", "the response is no message of the API's")
            return CallFailed("api_error", failure, CallFacts("transient"), latency_ms)
        case _:
            raise error


def _from_status(error: anthropic.APIStatusError, latency_ms: int | None) -> CallFailed:
    status, type_ = error.status_code, error.type or ""
    outcome = _OUTCOMES_BY_TYPE.get(type_) or _OUTCOMES_BY_STATUS.get(status, "api_error")
    headers = {key.lower(): value for key, value in error.response.headers.items()}
    kind = _kind(error, headers)
    name = "spend_limit" if kind == "spend_limit" else outcome
    if name == "api_error":
        name = type_ or f"http_{status}"
    failure = Failure(
        type=name,
        summary=f"{name} (status {status})",
        message=error.api_message or str(error),
        request_id=error.request_id,
        status=status,
    )
    return CallFailed(outcome, failure, CallFacts(kind, headers), latency_ms)


def _kind(error: anthropic.APIStatusError, headers: Mapping[str, str]) -> Kind:
    status, type_ = error.status_code, error.type or ""
    if _is_spend_limit(error):
        return "spend_limit"
    advice = headers.get("x-should-retry", "").lower()
    if advice == "false":
        return "terminal"
    if status == 429 or type_ == "rate_limit_error":
        return "rate_limited"
    if advice == "true" or status in _TRANSIENT_STATUSES or type_ in _TRANSIENT_TYPES:
        return "transient"
    return "transient" if status >= 500 else "terminal"


def _is_spend_limit(error: anthropic.APIStatusError) -> bool:
    if error.status_code == 402 or error.error_code in _SPEND_CODES:
        return True
    return error.status_code == 400 and _SPEND_TEXT in (error.api_message or "").lower()


def _no_response(
    outcome: str, summary: str, error: Exception, latency_ms: int | None
) -> CallFailed:
    cause = error.__cause__ or error
    failure = Failure(outcome, summary, f"{summary}: {type(cause).__name__}: {cause}")
    return CallFailed(outcome, failure, CallFacts("transient"), latency_ms)
