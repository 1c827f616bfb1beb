"""The retry policy: monotone, bounded, never too early, and right for every row of the taxonomy."""

from __future__ import annotations

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.claude.facts import CallFacts, Kind
from worker.claude.failures import aborted, classify
from worker.engine.policy import Backoff, Budget, decide
from worker.errors import Abandon, Cancelled, Fail, PauseQueue, Retry, Snooze

PLENTY = Budget(attempt=1, max_attempts=5, seconds_left=86_400)
BACKOFF = Backoff(base=1.0, cap=60.0)

chances = st.floats(0, 1)
attempts = st.integers(1, 10_000)
backoffs = st.builds(Backoff, base=st.floats(0.01, 100), cap=st.floats(0.01, 3600))


@given(backoffs, attempts, chances)
def test_a_pause_is_within_its_ceiling_and_the_cap(
    backoff: Backoff, attempt: int, chance: float
) -> None:
    pause = backoff.pause(attempt, chance)
    assert 0 <= pause <= backoff.ceiling(attempt) <= backoff.cap


@given(backoffs, attempts)
def test_ceilings_never_shrink(backoff: Backoff, attempt: int) -> None:
    assert backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1)


@given(
    st.sampled_from(["transient", "rate_limited"]),
    st.floats(0, 10_000),
    chances,
    st.integers(1, 4),
)
def test_retry_after_is_never_undercut(
    kind: Kind, asked: float, chance: float, attempt: int
) -> None:
    budget = Budget(attempt, max_attempts=5, seconds_left=86_400)
    facts = CallFacts(kind, {"retry-after": repr(asked)})
    decision = decide(facts, budget, BACKOFF, chance=chance)
    assert isinstance(decision, Retry | Snooze)
    assert asked <= decision.after <= asked + BACKOFF.cap


@given(st.integers(1, 20), st.integers(1, 20), st.floats(-10, 100), chances)
def test_no_retry_without_an_attempt_or_past_the_deadline(
    attempt: int, max_attempts: int, left: float, chance: float
) -> None:
    budget = Budget(attempt, max_attempts, left)
    decision = decide(CallFacts("transient"), budget, BACKOFF, chance=chance)
    if isinstance(decision, Retry):
        assert attempt < max_attempts
        assert decision.after < left
    else:
        assert isinstance(decision, Fail)


def test_a_rate_limit_is_snoozed_however_many_attempts_are_spent() -> None:
    budget = Budget(attempt=5, max_attempts=5, seconds_left=100)
    assert isinstance(decide(CallFacts("rate_limited"), budget, BACKOFF), Snooze)
    late = Budget(attempt=1, max_attempts=5, seconds_left=30)
    facts = CallFacts("rate_limited", {"retry-after": "31"})
    assert isinstance(decide(facts, late, BACKOFF), Fail)


def status_error(
    status: int,
    type_: str | None = None,
    *,
    code: str | None = None,
    message: str = "m",
    headers: dict[str, str] | None = None,
) -> anthropic.APIStatusError:
    body = {"type": "error", "error": {"type": type_, "message": message}}
    if code:
        body["error"]["details"] = {"error_code": code}  # type: ignore[index]
    request = httpx2.Request("POST", "http://claude/v1/messages")
    response = httpx2.Response(status, request=request, headers=headers or {})
    return anthropic.APIStatusError("m", response=response, body=body)


REQUEST = httpx2.Request("POST", "http://claude/v1/messages")

TAXONOMY = [
    *[(status_error(s, "invalid_request_error"), Fail) for s in (400, 401, 403, 404, 413, 422)],
    (status_error(400, message="You have reached your specified API usage limits."), PauseQueue),
    (status_error(402, "billing_error"), PauseQueue),
    (status_error(408), Retry),
    (status_error(409), Retry),
    (status_error(429, "rate_limit_error", headers={"retry-after": "3"}), Snooze),
    (status_error(429, "rate_limit_error", code="enforced_spend_limit_reached"), PauseQueue),
    (status_error(429, "rate_limit_error", code="contract_spend_limit_reached"), PauseQueue),
    (status_error(429, "rate_limit_error", code="ramp_limit_exceeded"), Snooze),
    *[(status_error(s, "api_error"), Retry) for s in (500, 502, 503, 504)],
    (status_error(529, "overloaded_error"), Retry),
    (status_error(200, "overloaded_error"), Retry),
    (status_error(200, "rate_limit_error"), Snooze),
    (anthropic.APIConnectionError(request=REQUEST), Retry),
    (anthropic.APITimeoutError(request=REQUEST), Retry),
    (httpx2.RemoteProtocolError("cut"), Retry),
    (httpx2.ReadTimeout("stalled"), Retry),
    (status_error(400, "invalid_request_error", headers={"x-should-retry": "true"}), Retry),
    (status_error(500, "api_error", headers={"x-should-retry": "false"}), Fail),
]


@pytest.mark.parametrize(("error", "expected"), TAXONOMY)
def test_every_row_of_the_taxonomy(error: Exception, expected: type) -> None:
    decision = decide(classify(error).facts, PLENTY, BACKOFF)
    assert type(decision) is expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("timeout", Retry), ("cancelled", Cancelled), ("lost", Abandon), ("shutdown", Snooze)],
)
def test_what_we_ended_ourselves(reason: str, expected: type) -> None:
    facts = aborted(reason, 5).facts  # type: ignore[arg-type]
    assert type(decide(facts, PLENTY, BACKOFF)) is expected


def test_what_is_no_failure_of_a_call_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        classify(ZeroDivisionError())
