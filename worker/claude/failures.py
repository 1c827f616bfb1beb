"""Which failure of a call means what.

Classified on the status code and the error's `type`, not on exception classes, which the SDK has
renamed before – and which do not cover a socket that is cut, a page of HTML or half a message.
"""

from __future__ import annotations

from collections.abc import Mapping

import anthropic
import httpx2
from pydantic import ValidationError

from worker.errors import Failure

#: Statuses after which the same request can succeed; 409 and 408 are the SDK's own choice.
_RETRYABLE = {408, 409, 429, 500, 502, 503, 504, 529}

_OUTCOMES = {408: "timeout", 429: "rate_limited", 504: "timeout", 529: "overloaded"}
_TYPES = {"rate_limit_error": "rate_limited", "overloaded_error": "overloaded"}


class CallFailed(Exception):
    """A call to Claude produced no usable reply.

    Attributes:
        outcome: the usage row's outcome.
        failure: what is kept with the job.
        retryable: whether the same request can succeed later.
        headers: the response's headers, lower-case; empty when there was no response.
        latency_ms: from sending the request to the failure.
    """

    def __init__(
        self,
        outcome: str,
        failure: Failure,
        *,
        retryable: bool,
        headers: Mapping[str, str] | None = None,
        latency_ms: int | None = None,
    ) -> None:
        super().__init__(failure.summary)
        self.outcome = outcome
        self.failure = failure
        self.retryable = retryable
        self.headers = headers or {}
        self.latency_ms = latency_ms


def classify(error: Exception, latency_ms: int | None = None) -> CallFailed:
    """Turn whatever a call raised into a `CallFailed`.

    Raises:
        Exception: `error` itself, when it is none of the ways in which a call can fail.
    """
    match error:
        case anthropic.APIStatusError():
            return _from_status(error, latency_ms)
        case anthropic.APITimeoutError() | httpx2.TimeoutException():
            return _without_response("timeout", "no reply in time", error, latency_ms)
        case anthropic.APIConnectionError() | httpx2.HTTPError():
            return _without_response("connection_error", "connection lost", error, latency_ms)
        case ValidationError():
            failure = Failure("malformed_response", "the response is not a message of the API's")
            return CallFailed("api_error", failure, retryable=True, latency_ms=latency_ms)
        case _:
            raise error


def _from_status(error: anthropic.APIStatusError, latency_ms: int | None) -> CallFailed:
    status, kind = error.status_code, error.type
    # An error event inside a stream arrives with status 200: only its type tells.
    outcome = _TYPES.get(kind or "") or _OUTCOMES.get(status, "api_error")
    name = outcome if outcome != "api_error" else (kind or f"http_{status}")
    failure = Failure(
        type=name,
        summary=f"{name} (status {status})",
        message=error.api_message or str(error),
        request_id=error.request_id,
        status=status,
    )
    headers = {key.lower(): value for key, value in error.response.headers.items()}
    advice = headers.get("x-should-retry")
    retryable = status in _RETRYABLE or kind in ("overloaded_error", "api_error")
    if advice in ("true", "false"):
        retryable = advice == "true"
    return CallFailed(outcome, failure, retryable=retryable, headers=headers, latency_ms=latency_ms)


def _without_response(
    outcome: str, summary: str, error: Exception, latency_ms: int | None
) -> CallFailed:
    cause = error.__cause__ or error
    failure = Failure(outcome, summary, f"{summary}: {type(cause).__name__}: {cause}")
    return CallFailed(outcome, failure, retryable=True, latency_ms=latency_ms)
