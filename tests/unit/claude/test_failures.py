from __future__ import annotations

from typing import Any

import anthropic
import httpx2
import pytest

from worker.claude.failures import CallFailed, classify
from worker.claude.reply import read_message

REQUEST = httpx2.Request("POST", "http://claude/v1/messages")
CLIENT = anthropic.Anthropic(api_key="x", base_url="http://claude")


def failed(status: int, error: Any = None, **headers: str) -> CallFailed:
    """What the SDK itself makes of such a response, classified."""
    body = {"type": "error", "error": error or {}, "request_id": "req_1"}
    fields = {"request-id": "req_1"} | {k.replace("_", "-"): v for k, v in headers.items()}
    response = httpx2.Response(status, json=body, headers=fields, request=REQUEST)
    return classify(CLIENT._make_status_error_from_response(response), 12)


def typed(kind: str, **more: str) -> dict[str, str]:
    return {"type": kind, "message": f"about {kind}"} | more


@pytest.mark.parametrize(
    ("status", "error", "outcome", "kind"),
    [
        (400, typed("invalid_request_error"), "api_error", "terminal"),
        (401, typed("authentication_error"), "api_error", "terminal"),
        (403, typed("permission_error"), "api_error", "terminal"),
        (404, typed("not_found_error"), "api_error", "terminal"),
        (408, typed("timeout_error"), "timeout", "transient"),
        (409, typed("conflict_error"), "api_error", "transient"),
        (413, typed("request_too_large"), "api_error", "terminal"),
        (422, typed("unprocessable"), "api_error", "terminal"),
        (429, typed("rate_limit_error"), "rate_limited", "rate_limited"),
        (500, typed("api_error"), "api_error", "transient"),
        (502, None, "api_error", "transient"),
        (503, None, "api_error", "transient"),
        (504, typed("timeout_error"), "timeout", "transient"),
        (529, typed("overloaded_error"), "overloaded", "transient"),
        # An error event inside a stream: only its type tells.
        (200, typed("overloaded_error"), "overloaded", "transient"),
        (200, typed("rate_limit_error"), "rate_limited", "rate_limited"),
        # Not the job's fault, and waiting a little does not help.
        (402, typed("billing_error"), "api_error", "spend_limit"),
        (
            400,
            {
                "type": "invalid_request_error",
                "message": "You have reached your specified API usage limits. …",
            },
            "api_error",
            "spend_limit",
        ),
    ],
)
def test_a_status_has_one_meaning(status: int, error: Any, outcome: str, kind: str) -> None:
    failure = failed(status, error)

    assert (failure.outcome, failure.facts.kind) == (outcome, kind)
    assert (failure.failure.status, failure.failure.request_id) == (status, "req_1")
    assert failure.latency_ms == 12


def test_the_api_s_advice_overrides_the_status() -> None:
    assert failed(400, x_should_retry="true").facts.kind == "transient"
    assert failed(529, x_should_retry="false").facts.kind == "terminal"


def test_the_headers_are_kept_for_the_policy() -> None:
    assert failed(429, **{"Retry-After": "7"}).facts.headers["retry-after"] == "7"


def test_what_claude_says_stays_out_of_the_summary() -> None:
    failure = failed(400, {"type": "invalid_request_error", "message": "confidential"}).failure

    assert failure.message == "confidential"
    assert "confidential" not in failure.summary


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (anthropic.APITimeoutError(request=REQUEST), "timeout"),
        (httpx2.ReadTimeout("x"), "timeout"),
        (anthropic.APIConnectionError(request=REQUEST), "connection_error"),
        (httpx2.RemoteProtocolError("x"), "connection_error"),
        (httpx2.ReadError("x"), "connection_error"),
    ],
)
def test_a_call_without_a_response_is_tried_again(error: Exception, outcome: str) -> None:
    failure = classify(error)

    assert (failure.outcome, failure.facts.kind) == (outcome, "transient")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"type": "message"'])
def test_a_200_that_is_no_message_is_tried_again(body: bytes) -> None:
    with pytest.raises(ValueError, match="no message") as caught:
        read_message(body, headers={}, latency_ms=1)

    failure = classify(caught.value)

    assert (failure.failure.type, failure.facts.kind) == ("malformed_response", "transient")


def test_a_bug_of_ours_is_not_a_failure_of_claude_s() -> None:
    with pytest.raises(ZeroDivisionError):
        classify(ZeroDivisionError())
