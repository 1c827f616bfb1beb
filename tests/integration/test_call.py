"""Both transports against the simulated Claude: the same reply, and every way of losing one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.claude.client import SimulatedClaude
from worker.claude.call import MOST_TOKENS_UNSTREAMED, Patience, call_claude
from worker.claude.clients import ClientStack
from worker.claude.failures import CallFailed
from worker.claude.inflight import CallControl, Watchdog
from worker.claude.reply import Reply
from worker.claude.request import Request

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "summary": {"type": "string"}},
    "required": ["title", "summary"],
    "additionalProperties": False,
}
REQUEST = Request(
    model="claude-haiku-5-5",
    max_tokens=2000,
    system="Summarise the text. " * 1000,
    user="The harbour was quiet before the storm reached the coast of the island.",
    schema=SCHEMA,
)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
def clients(claude: SimulatedClaude) -> Iterator[ClientStack]:
    stack = ClientStack("key", claude.url)
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    watching = Watchdog()
    watching.start()
    yield watching
    watching.stop()


@pytest.fixture
def call(clients: ClientStack, watchdog: Watchdog) -> Any:
    def make(request: Request = REQUEST, *, stream: bool, **patience: float) -> Reply:
        control = CallControl()
        seconds = Patience(**{"timeout": 20.0, "stall": 10.0} | patience)
        with watchdog.watching(control):
            return call_claude(clients, request, seconds, control, stream=stream)

    return make


def test_both_ways_give_the_same_reply(call: Any, claude: SimulatedClaude) -> None:
    claude.configure(thinking_tokens=20)
    whole, streamed = call(stream=False), call(stream=True)
    claude.configure(thinking_tokens=0)

    for name in ("text", "stop_reason", "model", "tokens", "service_tier"):
        assert getattr(whole, name) == getattr(streamed, name), name
    assert whole.tokens.thinking == 20
    assert streamed.first_token_ms is not None
    assert whole.first_token_ms is None
    entries = claude.ledger()
    assert [entry.stream for entry in entries] == [False, True]
    assert [entry.request_id for entry in entries] == [whole.request_id, streamed.request_id]


@pytest.mark.parametrize("lifetime", ["5m", "1h"])
def test_both_ways_count_what_went_through_the_prompt_cache(
    call: Any, claude: SimulatedClaude, lifetime: Any
) -> None:
    request = replace(REQUEST, cache=lifetime)
    written, read = call(request, stream=True), call(request, stream=False)

    by_lifetime = {"5m": written.tokens.cache_write_5m, "1h": written.tokens.cache_write_1h}
    assert by_lifetime[lifetime] == read.tokens.cache_read > 4000
    assert sum(by_lifetime.values()) == by_lifetime[lifetime]
    assert [e.usage.cache_read_tokens for e in claude.ledger()] == [0, read.tokens.cache_read]


def test_a_reply_that_may_be_long_is_streamed(call: Any, claude: SimulatedClaude) -> None:
    call(replace(REQUEST, max_tokens=MOST_TOKENS_UNSTREAMED + 1), stream=False)

    assert [entry.stream for entry in claude.ledger()] == [True]


def test_a_stream_leaves_its_connection_warm(call: Any, clients: ClientStack) -> None:
    call(stream=True)
    (client,) = clients._idle
    first = client._socket
    call(stream=True)

    assert client._socket is first


@pytest.mark.parametrize(
    ("fault", "outcome", "kind"),
    [
        ({"cut": True}, "connection_error", "connection_error"),
        ({"cut": True, "at": "headers"}, "connection_error", "connection_error"),
        ({"cut": True, "at": {"bytes": 300}}, "connection_error", "connection_error"),
        ({"broken_json": True}, "api_error", "malformed_response"),
        ({"status": 529}, "overloaded", "overloaded"),
        ({"status": 429, "headers": {"retry-after": "7"}}, "rate_limited", "rate_limited"),
        (
            {"status": 200, "headers": {"content-type": "text/html"}, "body": "<html>"},
            "api_error",
            "malformed_response",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
@BOTH
def test_a_lost_reply_is_classified_alike(
    call: Any, claude: SimulatedClaude, stream: bool, fault: Any, outcome: str, kind: str
) -> None:
    claude.faults(fault)

    with pytest.raises(CallFailed) as caught:
        call(stream=stream)

    assert (caught.value.outcome, caught.value.failure.type) == (outcome, kind)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"cut": True, "at": {"events": 4}}, "connection_error"),
        ({"eof": True}, "connection_error"),
        ({"stall": 30, "at": {"events": 4}}, "timeout"),
        ({"sse_error": {"type": "overloaded_error"}}, "overloaded"),
        ({"sse_error": {"type": "rate_limit_error"}}, "rate_limited"),
    ],
    ids=str,
)
def test_what_had_arrived_of_a_stream_is_billed_and_known(
    call: Any, claude: SimulatedClaude, fault: Any, outcome: str
) -> None:
    claude.faults(fault)

    with pytest.raises(CallFailed) as caught:
        call(stream=True, stall=0.5)

    partial = caught.value.partial
    (entry,) = claude.ledger()
    assert caught.value.outcome == outcome
    assert partial is not None
    assert (partial.request_id, partial.tokens.input) == (
        entry.request_id,
        entry.usage.input_tokens,
    )


def test_a_stream_that_drips_is_alive_until_its_deadline(
    call: Any, claude: SimulatedClaude
) -> None:
    claude.faults({"trickle": 0.01})

    with pytest.raises(CallFailed) as caught:
        call(stream=True, stall=5.0, timeout=1.5)

    assert caught.value.failure.summary == "no complete reply within the task's call timeout"


@BOTH
def test_a_cancelled_call_ends_at_once(
    clients: ClientStack, claude: SimulatedClaude, watchdog: Watchdog, stream: bool, eventually: Any
) -> None:
    claude.faults({"stall": 60, "at": "headers" if stream else "start"})
    control, failures = CallControl(), []

    def run() -> None:
        try:
            with watchdog.watching(control):
                call_claude(clients, REQUEST, Patience(60, 60), control, stream=stream)
        except CallFailed as failed:
            failures.append(failed)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: claude.stats()["in_flight"] == 1, "the call never arrived")
    control.abort("cancelled")
    thread.join(30)

    assert [(f.outcome, f.facts.aborted) for f in failures] == [("interrupted", "cancelled")]


def test_headers_and_then_silence_is_a_stall(call: Any, claude: SimulatedClaude) -> None:
    claude.faults({"stall": 60, "at": "headers"})

    with pytest.raises(CallFailed) as caught:
        call(stream=True, stall=0.5)

    assert caught.value.failure.summary == "the reply stalled halfway"


def test_what_was_late_for_one_call_does_not_end_the_next(clients: ClientStack) -> None:
    control = CallControl()
    control.abort("stalled")
    control.forgive()

    assert not control.wait(0)
    reply = call_claude(clients, REQUEST, Patience(20, 10), control, stream=True)
    assert reply.stop_reason == "end_turn"


def test_a_cancelled_call_is_not_forgiven(clients: ClientStack) -> None:
    control = CallControl()
    control.abort("cancelled")
    control.abort("stalled")
    control.forgive()

    assert control.wait(0)
