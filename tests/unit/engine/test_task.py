from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tasks import analyze_document, extract_entities, summarize_text
from worker.engine.sharing import window_of
from worker.engine.task import Task, TaskInput, TaskOutput
from worker.errors import ConfigurationError, InvalidInput, UnknownPromptVersion
from worker.settings import get_settings

GOOD: dict[str, Any] = {"text": "a text", "max_words": 50, "audience": "everybody"}


class Anything(TaskInput):
    anything: Any
    number: float = 0.0


class Answer(TaskOutput):
    answer: str


free = Task(name="free", input=Anything, output=Answer)


def refusal(task: Task[Any, Any], values: dict[str, Any], **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        task.new_job(values, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def zone(hours: float) -> timezone:
    return timezone(timedelta(hours=hours))


def test_a_good_input_becomes_a_job_with_the_task_s_defaults() -> None:
    job = summarize_text.new_job(GOOD)

    assert json.loads(job.input) == GOOD
    assert (job.task, job.max_attempts, job.priority) == ("summarize_text", 5, 100)


def test_every_wrong_field_is_named() -> None:
    line = refusal(summarize_text, {"text": "", "max_words": "50", "surprise": 1})

    for field in ("text:", "max_words:", "audience:", "surprise:"):
        assert field in line


@pytest.mark.parametrize("value", ["50", 50.5, True, None, [50]])
def test_a_number_is_a_number(value: object) -> None:
    assert "max_words: Input should be" in refusal(summarize_text, GOOD | {"max_words": value})


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"text": "ab\0", "entity_types": []}, "text: a NUL character at position 2"),
        ({"text": "x", "entity_types": ["a", "\0"]}, "entity_types.1: a NUL character at pos"),
        ({"text": "a\ud800", "entity_types": []}, r"text: a lone surrogate (\ud800) at position 1"),
        ({"text": "x", "a\0": "y"}, "a?: a NUL character at position 1"),
    ],
)
def test_text_that_postgres_cannot_store_is_named_by_path_and_position(
    values: dict[str, Any], where: str
) -> None:
    assert where in refusal(extract_entities, values)


def test_any_other_text_passes() -> None:
    text = "\U0001f9d1\u200d\U0001f680 \u202e\x01\x7f\ufeff\uffff \\u0000 😀"

    job = summarize_text.new_job(GOOD | {"text": text})

    assert json.loads(job.input)["text"] == text


def test_a_document_over_the_limit_is_refused_with_both_sizes() -> None:
    document = {"document_type": "x", "focus_areas": ["x"], "output_depth": "summary"}

    line = refusal(analyze_document, document | {"document": "ä" * 5_000_000})

    assert "the input is 10,000,0" in line
    assert "4,000,000 (CLAUDE_JOBS_MAX_INPUT_BYTES)" in line


def test_the_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(summarize_text.new_job(GOOD).input)
    monkeypatch.setenv("CLAUDE_JOBS_MAX_INPUT_BYTES", str(size))
    get_settings.cache_clear()

    summarize_text.new_job(GOOD)

    assert "CLAUDE_JOBS_MAX_INPUT_BYTES" in refusal(summarize_text, GOOD | {"text": "a textt"})


@pytest.mark.parametrize(
    "values",
    [
        {"anything": float("nan")},
        {"anything": [{"deep": float("inf")}]},
        {"anything": None, "number": float("-inf")},
    ],
)
def test_what_json_has_no_number_for_is_refused(values: dict[str, Any]) -> None:
    assert "is not JSON" in refusal(free, values)


@pytest.mark.parametrize("value", [nested(200), nested(100_000), circle()])
def test_what_is_nested_too_deeply_is_refused(value: list[Any]) -> None:
    assert "anything: nested more than" in refusal(free, {"anything": value})


def test_what_is_nested_less_deeply_passes() -> None:
    assert json.loads(free.new_job({"anything": nested(100)}).input)["anything"] == nested(100)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), {(1, 2): 3}, [10**5000]])
def test_what_is_not_json_is_refused(value: object) -> None:
    assert "is not JSON" in refusal(free, {"anything": value})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"priority": -1}, "priority -1 "),
        ({"priority": 32768}, "priority 32768 "),
        ({"priority": 1.5}, "priority 1.5 "),
        ({"lane": "fast"}, "lane 'fast'"),
        ({"max_attempts": 0}, "max_attempts 0 "),
        ({"max_attempts": -3}, "max_attempts -3 "),
        ({"run_at": datetime(2030, 1, 1)}, "run_at has no time zone"),
        ({"run_at": "2030-01-01"}, "run_at is a str: a datetime is expected"),
        ({"run_at": datetime.min.replace(tzinfo=zone(20))}, "is not between the years 1 and 9999"),
        ({"run_at": datetime.max.replace(tzinfo=zone(-20))}, "is not between the years 1 and 9999"),
        ({"deadline": datetime(2090, 1, 1)}, "deadline has no time zone"),
        ({"deadline": datetime(2020, 1, 1, tzinfo=UTC)}, "deadline 2020-01-01 00:00:00+00:00 has"),
        (
            {
                "run_at": datetime(2090, 1, 2, tzinfo=UTC),
                "deadline": datetime(2090, 1, 1, tzinfo=UTC),
            },
            "deadline 2090-01-01 00:00:00+00:00 is not after run_at 2090-01-02",
        ),
        ({"user_id": "a\0"}, "user_id: a NUL"),
        ({"idempotency_key": "\udfff"}, "idempotency_key: a lone surrogate"),
        ({"model": "\0"}, "model: a NUL"),
        ({"webhook_url": "shop.example/done"}, "webhook_url is malformed: expected https://host"),
        ({"webhook_url": "ftp://shop.example"}, "webhook_url is malformed"),
        ({"webhook_url": "https://b\N{SNOWMAN}.example/"}, "written as xn--"),
        ({"webhook_url": "https://[::1/"}, "webhook_url is malformed"),
        ({"webhook_url": "https://host:99999/"}, "webhook_url is malformed"),
        ({"webhook_url": "https://host/a\r\nX: y"}, "webhook_url has characters that must be"),
        ({"webhook_url": "https://host/" + "x" * 2048}, "webhook_url has 2,061 characters"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], expected: str) -> None:
    assert expected in refusal(summarize_text, GOOD, **options)


def test_enqueue_checks_options_before_it_looks_for_the_database() -> None:
    with pytest.raises(InvalidInput, match="priority 99999"):
        summarize_text.enqueue(**GOOD, priority=99999)


@pytest.mark.parametrize("priority", [0, 32767])
def test_the_bounds_of_priority_are_inside(priority: int) -> None:
    assert summarize_text.new_job(GOOD, priority=priority).priority == priority


def test_a_time_with_a_zone_passes() -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)

    assert summarize_text.new_job(GOOD, run_at=when).run_at == when


@pytest.mark.parametrize("hours", [-23.99, -16, 16, 23.99])
def test_a_time_far_from_utc_is_stored_as_utc(hours: float) -> None:
    """Postgres knows no zone that is 16 hours or more away."""
    when = datetime(2030, 1, 1, tzinfo=zone(hours))

    stored = summarize_text.new_job(GOOD, run_at=when).run_at

    assert stored == when
    assert stored.utcoffset() == timedelta(0)


def test_an_unknown_prompt_version_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownPromptVersion, match=r"summarize_text has no version '9'.*1\.0"):
        summarize_text.new_job(GOOD, prompt_version="9")


@pytest.mark.parametrize("name", ["user_id", "session", "priority", "model", "self"])
def test_a_field_that_enqueue_has_an_option_for_is_refused(name: str) -> None:
    clash = type("Clash", (TaskInput,), {"__annotations__": {name: str}})

    with pytest.raises(ConfigurationError, match=f"task clash: the input field '{name}'"):
        Task(name="clash", input=clash, output=Answer)


@pytest.mark.parametrize("name", ["", "Summarize", "sum-up", "1st", "a b"])
def test_a_task_name_is_lower_case_with_underscores(name: str) -> None:
    with pytest.raises(ConfigurationError, match="lower_case_with_underscores"):
        Task(name=name, input=Anything, output=Answer)


def test_an_output_bound_is_a_number_of_tokens() -> None:
    assert free.output_bound == 5_000
    with pytest.raises(ConfigurationError, match="free: output_bound must be above 0"):
        Task(name="free", input=Anything, output=Answer, output_bound=0)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_cache_window_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="free: cache_seconds must be 0"):
        Task(name="free", input=Anything, output=Answer, cache_seconds=seconds)


@pytest.mark.parametrize(
    ("of_the_fleet", "of_the_task", "window"),
    [("600", None, 600), ("600", 5, 5), ("600", 0, 0), ("0", None, 0), ("0", 5, 0)],
)
def test_a_window_is_the_tasks_or_the_fleets_unless_that_is_off(
    monkeypatch: pytest.MonkeyPatch, of_the_fleet: str, of_the_task: float | None, window: float
) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_CACHE_SECONDS", of_the_fleet)
    get_settings.cache_clear()
    task = Task(name="free", input=Anything, output=Answer, cache_seconds=of_the_task)

    assert window_of(task, get_settings()) == window


def test_a_job_is_cached_unless_it_says_otherwise() -> None:
    assert summarize_text.new_job(GOOD).cache
    assert not summarize_text.new_job(GOOD, cache=False).cache


def test_a_task_s_webhook_is_its_jobs_unless_they_name_another() -> None:
    told = Task(
        name="free", input=Anything, output=Answer, prompt="p", webhook_url="https://a.example/x"
    )

    assert told.new_job({"anything": 1}).webhook_url == "https://a.example/x"
    other = told.new_job({"anything": 1}, webhook_url="https://b.example/")
    assert other.webhook_url == "https://b.example/"
    with pytest.raises(ConfigurationError, match="task free: webhook_url is malformed"):
        Task(name="free", input=Anything, output=Answer, webhook_url="a.example")
