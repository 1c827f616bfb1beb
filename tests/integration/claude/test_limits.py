"""The account's limits: rate limits, acceleration, overload and the spend cap."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from pydantic import ValidationError

from sandbox.claude.client import SimulatedClaude
from tests.integration.claude.asking import CLASS, ask, begun, post, request, stream

HUGE = {"requests": 10**6, "input_tokens": 10**9, "output_tokens": 10**9}
RULES = [
    {"type": "text", "text": "Keep to it. " * 900, "cache_control": {"type": "ephemeral"}},
]


def limit(claude: SimulatedClaude, **limits: int) -> None:
    claude.configure(limits={CLASS: HUGE | limits})
    claude.reset()


def left(response: httpx2.Response, name: str) -> int:
    return int(response.headers[f"anthropic-ratelimit-{name}-remaining"])


def used(claude: SimulatedClaude, name: str = CLASS) -> dict[str, int]:
    counts: dict[str, int] = claude.stats()["classes"][name]
    return counts


def test_requests_beyond_the_limit_are_429_and_cost_nothing(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    limit(claude, requests=2)
    replies = [ask(sdk), ask(sdk)]
    with pytest.raises(anthropic.RateLimitError, match="rate limit of 2 requests per m") as error:
        ask(sdk)

    assert error.value.type == "rate_limit_error"
    assert error.value.error_code is None
    assert 25 <= int(error.value.response.headers["retry-after"]) <= 30
    assert error.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    ok, also_ok, refused = claude.ledger()
    assert (refused.status, refused.outcome, refused.billed) == (429, "error", False)
    counts = used(claude)
    assert counts == {
        "admitted": 2,
        "rejected": 1,
        "overloaded": 0,
        "input_tokens": sum(reply.usage.input_tokens for reply in replies),
        "output_tokens": ok.usage.output_tokens + also_ok.usage.output_tokens,
    }


def test_a_request_is_admitted_again_after_the_time_it_was_told(claude: SimulatedClaude) -> None:
    limit(claude, requests=60)
    claude.configure(burst_seconds=1)
    assert post(claude, request()).status_code == 200
    told = post(claude, request())
    assert (told.status_code, told.headers["retry-after"]) == (429, "1")

    def admitted() -> bool:
        return post(claude, request()).status_code == 200

    while not admitted():
        pass
    first, second = (e.received_at for e in claude.ledger() if e.status == 200)
    assert second - first > 0.9


def test_input_beyond_the_limit_is_429(claude: SimulatedClaude) -> None:
    limit(claude, input_tokens=5_000)
    body = request("x" * 12_000)

    assert [post(claude, body).status_code for _ in range(2)] == [200, 429]
    refused = post(claude, body)
    assert "5,000 input tokens per minute" in refused.json()["error"]["message"]
    assert 5 <= int(refused.headers["retry-after"]) <= 15
    assert post(claude, request("small")).status_code == 200


def test_cache_reads_are_free_and_writes_are_not(claude: SimulatedClaude) -> None:
    limit(claude, input_tokens=4_000)
    body = request("Go on.", system=RULES)
    statuses = [post(claude, body).status_code for _ in range(5)]

    assert statuses == [200] * 5
    write, *reads = claude.ledger()
    assert write.usage.cache_write_5m_tokens > 2_000
    assert all(read.usage.cache_read_tokens > 2_000 for read in reads)
    assert used(claude)["input_tokens"] < 4_000


def test_output_is_debited_when_it_is_generated_and_may_be_overdrawn(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    limit(claude, output_tokens=20)
    generated = ask(sdk, max_tokens=4_000).usage.output_tokens
    assert generated > 20

    with pytest.raises(anthropic.RateLimitError, match="20 output tokens per minute") as error:
        stream(sdk)
    owed = (generated - 20) * 60 / 20
    assert owed - 5 <= int(error.value.response.headers["retry-after"]) <= owed + 1


def test_headers_tell_what_is_left(claude: SimulatedClaude) -> None:
    limit(claude, requests=100, input_tokens=50_000, output_tokens=20_000)
    before = datetime.datetime.now(datetime.UTC)
    response = post(claude, request("x" * 40_000, max_tokens=10))
    streamed = post(claude, request(stream=True))
    headers = response.headers

    assert [left(response, name) for name in ("requests", "input-tokens", "output-tokens")] == [
        *(99, 40_000, 20_000)
    ]
    assert headers["anthropic-ratelimit-tokens-limit"] == "70000"
    assert left(response, "tokens") == 60_000
    assert left(streamed, "requests") == 98
    reset = datetime.datetime.fromisoformat(headers["anthropic-ratelimit-input-tokens-reset"])
    assert datetime.timedelta(seconds=10) < reset - before
    assert headers["anthropic-ratelimit-tokens-reset"] == reset.isoformat().replace("+00:00", "Z")


def test_each_class_has_its_own_buckets_and_models_of_a_class_share(
    claude: SimulatedClaude,
) -> None:
    claude.configure(limits={"*": HUGE | {"requests": 1}, "claude-opus-5": HUGE})

    def statuses(model: str) -> list[int]:
        return [post(claude, request(model=model)).status_code for _ in range(2)]

    assert statuses("claude-sonnet-5-5") == [200, 429]
    assert statuses("claude-haiku-5-5") == [200, 429]
    assert statuses("claude-opus-5-5") == [200, 200]
    assert {name: counts["rejected"] for name, counts in claude.stats()["classes"].items()} == {
        "claude-sonnet-5": 1,
        "claude-haiku-5": 1,
        "claude-opus-5": 0,
    }


def test_limits_can_change_and_what_was_used_stays_used(claude: SimulatedClaude) -> None:
    limit(claude, requests=1)
    assert post(claude, request()).status_code == 200
    claude.configure(limits={CLASS: HUGE | {"requests": 2}})
    assert post(claude, request()).status_code == 429
    claude.configure(limits=None)
    free = post(claude, request())

    assert free.status_code == 200
    assert left(free, "requests") == 100_000


def test_errors_debit_a_request_and_give_the_input_back(claude: SimulatedClaude) -> None:
    limit(claude, requests=3, input_tokens=3_000)
    claude.faults({"status": 529, "times": 2})
    body = request("x" * 8_000)

    assert [post(claude, body).status_code for _ in range(4)] == [529, 529, 200, 429]
    assert post(claude, {"model": "x"}).status_code == 400
    assert used(claude)["admitted"] == 3


def test_growth_beyond_the_ramp_is_429_with_its_code(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    claude.configure(ramp={"seconds": 60, "factor": 2, "free_requests": 3})
    for _ in range(3):
        ask(sdk)
    with pytest.raises(anthropic.RateLimitError) as error:
        ask(sdk)

    assert type(error.value).__name__ == "RampLimitExceededError"
    assert error.value.error_code == "ramp_limit_exceeded"
    assert 55 <= int(error.value.response.headers["retry-after"]) <= 60
    assert used(claude)["rejected"] == 1
    claude.configure(ramp=None)
    assert ask(sdk)


def test_one_request_too_many_at_a_time_is_529(
    sdk: Anthropic, claude: SimulatedClaude, eventually: Callable[..., None]
) -> None:
    claude.configure(overload=2)
    claude.faults({"swallow": True, "times": 2})
    with ExitStack() as open_:
        for _ in range(2):
            open_.enter_context(begun(claude, request()))
        eventually(lambda: claude.stats()["in_flight"] == 2)
        with pytest.raises(anthropic.OverloadedError):
            ask(sdk)
    eventually(lambda: claude.stats()["in_flight"] == 0)

    assert ask(sdk)
    assert used(claude)["overloaded"] == 1
    assert used(claude)["admitted"] == 3


def test_an_account_that_has_spent_its_limit_gets_400(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    ask(sdk)
    (entry,) = claude.ledger()
    claude.configure(spend_limit_usd=entry.cost_usd + Decimal("0.000001"))
    ask(sdk)
    with pytest.raises(
        anthropic.BadRequestError, match=r"You have reached your specified API usage limits\. You w"
    ):
        ask(sdk)

    assert Decimal(claude.stats()["spent_usd"]) == 2 * entry.cost_usd
    claude.configure(spend_limit_usd=None)
    assert ask(sdk)


@pytest.mark.parametrize(
    "settings",
    [
        {"limits": {"claude-sonnet-5-5": HUGE}},
        {"limits": {CLASS: {"requests": 1}}},
        {"limits": {CLASS: HUGE | {"requests": 0}}},
        {"ramp": {"factor": 1}},
        {"overload": -1},
        {"speed": 3},
    ],
)
def test_malformed_settings_are_refused(claude: SimulatedClaude, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        claude.configure(**settings)
    with pytest.raises(ValidationError):
        SimulatedClaude(**settings)


def test_settings_outlive_a_restart() -> None:
    limits = {"*": HUGE | {"requests": 1}}
    with SimulatedClaude(limits=limits, ramp={"seconds": 5}, spend_limit_usd="0.5") as claude:
        claude.stop()
        claude.start()
        assert [post(claude, request()).status_code for _ in range(2)] == [200, 429]
