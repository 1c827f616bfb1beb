"""The billing ledger."""

from __future__ import annotations

import threading
from decimal import Decimal

import anthropic
import pytest
from anthropic import Anthropic

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Fault
from tests.integration.claude.asking import (
    TEXT,
    ask,
    stream,
)


def test_costs_are_exact(sdk: Anthropic, claude: SimulatedClaude) -> None:
    usage = ask(sdk, metadata={"user_id": "job-1"}).usage
    (entry,) = claude.ledger()

    assert entry.tag == "job-1"
    assert entry.cost_usd == (
        Decimal(2) * usage.input_tokens + Decimal(10) * usage.output_tokens
    ) / Decimal(1_000_000)


def test_totals_equal_what_the_sdk_saw(sdk: Anthropic, claude: SimulatedClaude) -> None:
    seen = [ask(sdk, f"{TEXT} {number}").usage for number in range(10)]
    seen += [
        event.message.usage.model_copy(update={"output_tokens": events[-2].usage.output_tokens})
        for events in (stream(sdk, f"{number} {TEXT}") for number in range(10))
        for event in events[:1]
    ]
    entries = claude.ledger()

    assert all(entry.delivered and entry.outcome == "ok" for entry in entries)
    assert [e.usage.input_tokens for e in entries] == [u.input_tokens for u in seen]
    assert [e.usage.output_tokens for e in entries] == [u.output_tokens for u in seen]
    assert [entry.index for entry in claude.ledger(since=15)] == [15, 16, 17, 18, 19]


def test_a_refused_request_is_entered_but_not_billed(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    with pytest.raises(anthropic.NotFoundError):
        ask(sdk, model="unknown")

    (entry,) = claude.ledger()
    assert (entry.status, entry.outcome, entry.billed) == (404, "error", False)


def test_haiku_bills_long_prompts_at_five_times_the_price(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    for characters in (399_000, 401_000):
        ask(sdk, "x" * characters, model="claude-haiku-5-5")
    short, long = claude.ledger()

    assert (
        short.cost_usd
        == Decimal("0.1") * 99_750 / 10**6 + Decimal("0.5") * short.usage.output_tokens / 10**6
    )
    assert long.cost_usd > 5 * short.cost_usd


def test_requests_in_flight_are_counted(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(Fault(delay=0.5, times=None))
    threads = [threading.Thread(target=ask, args=(sdk,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    stats = claude.stats()
    assert Decimal(stats["spent_usd"]) == sum(entry.cost_usd for entry in claude.ledger())
    assert stats["max_in_flight"] == 5
    assert (stats["requests"], stats["in_flight"]) == (5, 0)
