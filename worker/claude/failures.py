"""Which failure of a call means what.

Classified on the status code and the error's `type` and `error_code`, not on exception classes,
which the SDK has renamed before – and which do not cover a socket that is cut, a page of HTML or
half a message. What follows from a failure is decided in `worker.engine.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import anthropic
import httpx2

from worker.claude.facts import CallFacts, Kind, Reason
from worker.claude.incoming import ErrorEvent
from worker.claude.reply import MalformedReply, Reply
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
    "stalled": ("timeout", "the reply stalled halfway"),
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
        partial: what had arrived of a streamed reply; it was billed, and its tokens count.
    """

    def __init__(
        self,
        outcome: str,
        failure: Failure,
        facts: CallFacts,
        latency_ms: int | None = None,
        partial: Reply | None = None,
    ) -> None:
        super().__init__(failure.summary)
        if partial is not None and failure.request_id is None:
            failure = replace(failure, request_id=partial.request_id)
        self.outcome = outcome
        self.failure = failure
        self.facts = facts
        self.latency_ms = latency_ms
        self.partial = partial


def aborted(reason: Reason, latency_ms: int, partial: Reply | None = None) -> CallFailed:
    """The failure of a call that this process ended."""
    outcome, summary = _ABORTS[reason]
    kind: Kind = "transient" if outcome == "timeout" else "aborted"
    facts = CallFacts(kind, aborted=reason)
    return CallFailed(outcome, Failure(outcome, summary), facts, latency_ms, partial)


def classify(
    error: Exception, latency_ms: int | None = None, partial: Reply | None = None
) -> CallFailed:
    """Turn whatever a call raised into a `CallFailed`.

    Raises:
        Exception: `error` itself, when it is none of the ways in which a call can fail.
    """
    outcome, failure, facts = _read(error)
    return CallFailed(outcome, failure, facts, latency_ms, partial)


def _read(error: Exception) -> tuple[str, Failure, CallFacts]:
    match error:
        case anthropic.APIStatusError() | ErrorEvent():
            return _from_api(_Answer.of(error))
        case anthropic.APITimeoutError() | httpx2.TimeoutException():
            return _no_response("timeout", "no reply in time", error)
        case anthropic.APIConnectionError() | httpx2.HTTPError():
            return _no_response("connection_error", "connection lost", error)
        case MalformedReply():
            summary = "the response is no message of the API's"
            failure = Failure("malformed_response", summary, None, error.request_id)
            return "api_error", failure, CallFacts("transient")
        case _:
            raise error


@dataclass(frozen=True, slots=True)
class _Answer:
    """An error as Claude reported it: by status, or by an event of a stream."""

    status: int
    type: str
    code: str | None
    message: str
    request_id: str | None
    headers: Mapping[str, str]

    @classmethod
    def of(cls, error: anthropic.APIStatusError | ErrorEvent) -> _Answer:
        if isinstance(error, ErrorEvent):
            request_id = error.headers.get("request-id")
            return cls(200, error.type, None, error.message, request_id, error.headers)
        return cls(
            status=error.status_code,
            type=error.type or "",
            code=error.error_code,
            message=error.api_message or str(error),
            request_id=error.request_id,
            headers={key.lower(): value for key, value in error.response.headers.items()},
        )


def _from_api(answer: _Answer) -> tuple[str, Failure, CallFacts]:
    status, type_ = answer.status, answer.type
    outcome = _OUTCOMES_BY_TYPE.get(type_) or _OUTCOMES_BY_STATUS.get(status, "api_error")
    kind = _kind(answer)
    name = "spend_limit" if kind == "spend_limit" else outcome
    if name == "api_error":
        name = type_ or f"http_{status}"
    failure = Failure(
        type=name,
        summary=f"{name} (status {status})",
        message=answer.message,
        request_id=answer.request_id,
        status=status,
    )
    return outcome, failure, CallFacts(kind, answer.headers, answer.code)


def _kind(answer: _Answer) -> Kind:
    status, type_ = answer.status, answer.type
    if _is_spend_limit(answer):
        return "spend_limit"
    advice = answer.headers.get("x-should-retry", "").lower()
    if advice == "false":
        return "terminal"
    if status == 429 or type_ == "rate_limit_error":
        return "rate_limited"
    if advice == "true" or status in _TRANSIENT_STATUSES or type_ in _TRANSIENT_TYPES:
        return "transient"
    return "transient" if status >= 500 else "terminal"


def _is_spend_limit(answer: _Answer) -> bool:
    if answer.status == 402 or answer.code in _SPEND_CODES:
        return True
    return answer.status == 400 and _SPEND_TEXT in answer.message.lower()


def _no_response(outcome: str, summary: str, error: Exception) -> tuple[str, Failure, CallFacts]:
    cause = error.__cause__ or error
    failure = Failure(outcome, summary, f"{summary}: {type(cause).__name__}: {cause}")
    return outcome, failure, CallFacts("transient")
