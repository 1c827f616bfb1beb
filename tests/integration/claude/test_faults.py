"""Faults on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from pydantic import ValidationError

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from tests.integration.claude.asking import (
    MODEL,
    TEXT,
    ask,
    begun,
    request,
    stream,
    text_of,
)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (402, anthropic.PaymentRequiredError),
        (403, anthropic.PermissionDeniedError),
        (408, anthropic.RequestTimeoutError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (503, anthropic.ServiceUnavailableError),
        (504, anthropic.GatewayTimeoutError),
        (529, anthropic.OverloadedError),
    ],
)
def test_a_status_is_the_sdks_exception(
    sdk: Anthropic,
    claude: SimulatedClaude,
    status: int,
    error: type[anthropic.APIStatusError],
) -> None:
    claude.faults(Fault(status=status, headers={"Retry-After": "7"}))
    with pytest.raises(error) as raised:
        ask(sdk)

    assert raised.value.status_code == status
    assert raised.value.response.headers["retry-after"] == "7"
    assert claude.ledger()[0].cost_usd == 0
    assert ask(sdk).stop_reason == "end_turn"


def test_an_error_code_selects_the_sdks_subclass(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults({"status": 429, "error_code": "enforced_spend_limit_reached"})

    with pytest.raises(anthropic.RateLimitError) as raised:
        ask(sdk)
    assert raised.value.error_code == "enforced_spend_limit_reached"
    assert type(raised.value) is not anthropic.RateLimitError


def test_a_504_may_be_billed(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(status=504, billed=True))

    with pytest.raises(anthropic.GatewayTimeoutError):
        ask(sdk)
    (entry,) = claude.ledger()
    assert (entry.status, entry.delivered) == (504, True)
    assert entry.cost_usd > 0


@pytest.mark.parametrize("at", ["start", "headers", {"bytes": 40}])
def test_a_cut_connection_is_a_connection_error(
    sdk: Anthropic, claude: SimulatedClaude, at: Any
) -> None:
    claude.faults({"cut": True, "at": at})

    with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
        ask(sdk)
    (entry,) = claude.ledger()
    assert (entry.outcome, entry.delivered) == ("cut", False)
    assert entry.cost_usd > 0


@pytest.mark.parametrize("at", ["headers", {"bytes": 300}, {"events": 3}, {"events": -1}])
def test_a_stream_that_is_cut_raises_httpx2s_error(
    sdk: Anthropic, claude: SimulatedClaude, at: Any
) -> None:
    claude.faults({"cut": True, "at": at})

    with pytest.raises(httpx2.RemoteProtocolError):
        stream(sdk)


def test_a_stall_runs_into_the_clients_timeout(sdk: Anthropic, claude: SimulatedClaude) -> None:
    impatient = sdk.with_options(timeout=0.2)
    claude.faults(Fault(stall=30), {"stall": 30, "at": {"events": 3}})

    with pytest.raises(anthropic.APITimeoutError):
        ask(impatient)
    with pytest.raises(httpx2.ReadTimeout):
        stream(impatient)
    assert ask(sdk).stop_reason == "end_turn"
    for entry in claude.ledger()[:2]:
        assert (entry.outcome, entry.delivered) == ("disconnected", False)
        assert entry.billed


def test_a_trickle_arrives_byte_by_byte_and_whole(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(trickle=0.0001, reply="Slow."))

    assert text_of(ask(sdk)) == "Slow."
    assert claude.ledger()[0].delivered


def test_a_delay_holds_the_reply_back(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(delay=0.2))
    ask(sdk)

    (entry,) = claude.ledger()
    assert entry.finished_at is not None
    assert entry.finished_at - entry.received_at >= 0.2


def test_an_error_event_is_a_status_error_with_status_200(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    claude.faults({"sse_error": {"type": "overloaded_error"}})

    with pytest.raises(anthropic.APIStatusError) as raised:
        stream(sdk)
    assert raised.value.status_code == 200
    assert raised.value.type == "overloaded_error"


def test_a_clean_end_without_message_stop_raises_nothing(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    claude.faults(Fault(eof=True), {"eof": True, "at": {"events": 4}})

    assert stream(sdk)[-1].type == "message_delta"
    assert stream(sdk)[-1].type == "content_block_delta"
    assert not claude.ledger()[0].delivered


def test_html_with_200_is_a_str(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(
        {"status": 200, "headers": {"content-type": "text/html"}, "body": "<html></html>"}
    )
    reply: object = sdk.messages.create(
        model=MODEL, max_tokens=5, messages=[{"role": "user", "content": TEXT}]
    )

    assert reply == "<html></html>"


@pytest.mark.parametrize("call", [ask, stream])
def test_broken_json_raises_a_decode_error(
    sdk: Anthropic, claude: SimulatedClaude, call: Any
) -> None:
    claude.faults(Fault(broken_json=True))

    with pytest.raises(json.JSONDecodeError):
        call(sdk)
    assert claude.ledger()[0].billed


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "pause_turn"])
def test_a_stop_reason_is_overridden(sdk: Anthropic, claude: SimulatedClaude, reason: Any) -> None:
    claude.faults(Fault(stop_reason=reason, times=2))
    message = ask(sdk)

    assert message.stop_reason == reason
    assert stream(sdk)[-2].delta.stop_reason == reason
    assert (message.content == []) == (reason == "refusal")
    assert (message.stop_details is not None) == (reason == "refusal")


def test_a_swallowed_reply_landed_and_is_billed(sdk: Anthropic, claude: SimulatedClaude) -> None:
    impatient = sdk.with_options(timeout=0.2)
    claude.faults(Fault(swallow=True), {"swallow": True, "at": {"events": 3}})

    with pytest.raises(anthropic.APITimeoutError):
        ask(impatient)
    with pytest.raises(httpx2.ReadTimeout):
        stream(impatient)
    assert ask(sdk).stop_reason == "end_turn"
    for entry in claude.ledger()[:2]:
        assert (entry.fault, entry.outcome) == ("swallow", "disconnected")
        assert (entry.delivered, entry.billed) == (False, True)
        assert entry.cost_usd > 0


def test_a_swallowed_reply_is_in_flight_until_the_client_leaves(
    claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.faults(Fault(swallow=True))
    with begun(claude, request()):
        eventually(lambda: [entry.billed for entry in claude.ledger()] == [True])
        assert claude.stats()["in_flight"] == 1
    eventually(lambda: claude.stats()["in_flight"] == 0)


def test_streamed_and_plain_requests_are_told_apart(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    claude.faults(Fault(reply="streamed", stream=True), Fault(reply="plain", stream=False))

    assert text_of(ask(sdk)) == "plain"
    assert stream(sdk)[2].delta.text == "streamed"


def test_a_malformed_fault_is_refused(claude: SimulatedClaude) -> None:
    malformed: list[Any] = [{"statuss": 500}, {"cut": True, "eof": True}, {"at": {}}, {"rate": 2}]
    for fault in malformed:
        with pytest.raises(ValidationError):
            claude.faults(fault)
