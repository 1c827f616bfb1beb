from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from worker.claude.reply import Reply, Tokens
from worker.engine.judge import Accepted, Rejected, judge
from worker.engine.task import TaskOutput

SECRET = "the customer's own words"


class Answer(TaskOutput):
    answer: str
    score: float = 0.0


class Question(BaseModel):
    text: str = "?"


def reply(text: str, stop_reason: str | None = "end_turn") -> Reply:
    return Reply(
        text=text,
        stop_reason=stop_reason,
        model="m",
        tokens=Tokens(),
        service_tier=None,
        request_id="req_1",
        latency_ms=1,
    )


def verdict(text: str, stop_reason: str | None = "end_turn", *checks: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        judge(reply(text, stop_reason), Answer, checks, Question())
    assert caught.value.failure.request_id == "req_1"
    assert SECRET not in caught.value.failure.summary
    return caught.value


def is_polite(question: Question, answer: Answer) -> str | None:
    return None if "please" in answer.answer else f"not polite: {answer.answer}"


class Fragile(TaskOutput):
    answer: str

    @field_validator("answer")
    @classmethod
    def looked_up(cls, answer: str) -> str:
        return {}[answer]  # type: ignore[no-any-return]


def test_an_output_model_that_raises_is_a_bug_and_not_repaired() -> None:
    with pytest.raises(Rejected) as caught:
        judge(reply('{"answer": "yes"}'), Fragile, [], Question())

    assert (caught.value.failure.type, caught.value.remedy) == ("check_error", "none")


def test_a_good_reply_is_the_output() -> None:
    text = '{"answer": "yes, please"}'

    accepted = judge(reply(text), Answer, [is_polite], Question())

    assert accepted == Accepted(Answer(answer="yes, please"))


def test_what_a_warning_finds_is_kept_and_stops_nothing() -> None:
    accepted = judge(reply('{"answer": "no"}'), Answer, [], Question(), [is_polite])

    assert accepted.output == Answer(answer="no")
    assert accepted.warnings == [{"check": "is_polite", "problem": "not polite: no"}]


def test_a_salvaged_reply_is_accepted_and_flagged() -> None:
    accepted = judge(reply('```json\n{"answer": "yes"}\n```'), Answer, [], Question())

    assert accepted.output == Answer(answer="yes")
    assert accepted.warnings[0]["check"] == "reply_format"


@pytest.mark.parametrize(
    ("stop_reason", "outcome"),
    [
        ("refusal", "refused"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
    ],
)
def test_a_reply_that_was_not_finished_is_judged_by_its_stop_reason(
    stop_reason: str, outcome: str
) -> None:
    rejected = verdict('{"answer": "a whole one"}', stop_reason)

    assert (rejected.outcome, rejected.failure.type) == (outcome, outcome)


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f'{{"answer": "{SECRET}',
        f'{{"answer": ["{SECRET}"]}}',
        f'{{"answer": "a", "extra": "{SECRET}"}}',
        "[" * 100_000,
    ],
)
def test_a_reply_that_does_not_fit_is_tried_again(text: str) -> None:
    rejected = verdict(text)

    assert (rejected.outcome, rejected.retryable) == ("invalid_output", True)
    assert rejected.failure.problems


@pytest.mark.parametrize("value", [r'"a\u0000"', r'"a\u0000", "score": 1'])
def test_a_reply_that_postgres_cannot_store_is_tried_again(value: str) -> None:
    rejected = verdict(f'{{"answer": {value}}}')

    assert (rejected.outcome, rejected.retryable) == ("invalid_output", True)
    assert "answer: a NUL" in (rejected.failure.message or "")


def test_a_number_that_is_none_is_tried_again() -> None:
    assert verdict('{"answer": "a", "score": NaN}').outcome == "invalid_output"


def test_a_failed_check_is_tried_again_and_names_the_check_but_no_output_in_public() -> None:
    rejected = verdict(f'{{"answer": "{SECRET}"}}', "end_turn", is_polite)

    assert (rejected.outcome, rejected.retryable) == ("invalid_output", True)
    assert rejected.failure.summary == "check is_polite failed"
    assert SECRET in (rejected.failure.message or "")


def is_broken(question: Question, answer: Answer) -> str | None:
    raise ZeroDivisionError(answer.answer)


def test_a_check_that_raises_fails_the_job_and_names_the_check() -> None:
    rejected = verdict(f'{{"answer": "{SECRET}"}}', "end_turn", is_broken)

    assert rejected.failure.type == "check_error"
    assert "is_broken raised ZeroDivisionError" in rejected.failure.summary
    assert not rejected.retryable
