"""`enqueue_job` and `job_status`: the same as in Python, from anything that speaks SQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy import Engine, text

from tasks import summarize_text
from tests.integration.sql_world import SUMMARY, Roles, enqueue_job, know_tasks
from tests.integration.steps import claim, dispatch, open_usage, succeed
from worker.engine.registry import load_registry
from worker.errors import InvalidInput
from worker.settings import get_settings
from worker.storage.engine import transaction


def job(engine: Engine, job_id: object) -> Any:
    with transaction(engine) as connection:
        return connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()


def refused(connection: psycopg.Connection[Any], **arguments: Any) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        enqueue_job(connection, **arguments)
    message = caught.value.diag.message_primary
    assert message is not None
    assert "\n" not in message
    return caught.value


def test_a_job_by_sql_is_the_same_as_one_by_python(engine: Engine, roles: Roles) -> None:
    when = datetime(2030, 1, 2, tzinfo=UTC)
    options: dict[str, Any] = {
        "idempotency_key": "k",
        "priority": 7,
        "lane": "batch",
        "run_at": when,
        "deadline": when + timedelta(days=3),
        "user_id": "u",
        "prompt_version": "1.0",
        "model": "claude-x",
        "stream": True,
        "max_attempts": 2,
        "webhook_url": "https://shop.example/done?x=1",
    }
    by_sql = job(engine, enqueue_job(roles.connect(), **options))
    by_python = job(
        engine,
        load_registry()["summarize_text"]
        .enqueue(**SUMMARY, **options | {"idempotency_key": "p"})
        .id,
    )

    differing = {"id", "idempotency_key", "created_at"}
    assert {name: value for name, value in by_sql._mapping.items() if name not in differing} == {
        name: value for name, value in by_python._mapping.items() if name not in differing
    }


def test_what_is_not_said_has_its_default(engine: Engine, roles: Roles) -> None:
    nothing = dict.fromkeys(["priority", "lane", "run_at", "deadline", "stream", "max_attempts"])
    for said in ({}, nothing):
        made = job(engine, enqueue_job(roles.connect(), **said))
        assert (made.state, made.lane, made.priority, made.stream) == (
            "queued", "interactive", 100, False,
        )  # fmt: skip
        assert (made.max_attempts, made.run_at) == (5, made.created_at)
        assert (made.service, made.webhook_url, made.deadline_at) == (None, None, None)


@pytest.mark.parametrize(
    ("hours", "options", "lane"),
    [
        (25.9, {}, "interactive"),
        (26.1, {}, "batch"),
        (26.1, {"lane": "interactive"}, "interactive"),
        (26.1, {"stream": True}, "interactive"),
        (40.0, {"run_in": 15.0}, "interactive"),
        (40.0, {"run_in": 13.0}, "batch"),
        (40.0, {"run_in": -99.0}, "batch"),
        (3.0, {"lane": "batch"}, "batch"),
    ],
)
def test_a_deadline_chooses_the_lane_as_it_does_in_python(
    engine: Engine, roles: Roles, hours: float, options: dict[str, Any], lane: str
) -> None:
    now = datetime.now(UTC)
    options = {"deadline": now + timedelta(hours=hours)} | options
    if (run_in := options.pop("run_in", None)) is not None:
        options["run_at"] = now + timedelta(hours=run_in)
    by_sql = job(engine, enqueue_job(roles.connect(), **options))
    by_python = summarize_text.new_job(SUMMARY, **options)
    assert (by_sql.lane, by_python.lane) == (lane, lane)
    assert by_sql.deadline_at == by_python.deadline_at == options["deadline"]


def test_positions_do_as_well(roles: Roles) -> None:
    owner = roles.connect()
    found = owner.execute("SELECT enqueue_job('summarize_text', '{}')").fetchone()

    assert found is not None


def test_a_job_is_part_of_the_transaction_around_it(engine: Engine, roles: Roles) -> None:
    shop = roles.producer("shop")
    with shop.transaction(force_rollback=True):
        gone = enqueue_job(shop)
    with shop.transaction():
        kept = enqueue_job(shop)
        assert shop.execute("SELECT state FROM job_status(%s)", [kept]).fetchone() == ("queued",)
        assert (
            roles.connect("shop").execute("SELECT * FROM job_status(%s)", [kept]).fetchone() is None
        )

    with transaction(engine) as connection:
        assert connection.execute(text("SELECT id FROM jobs")).scalars().all() == [kept]
    assert gone != kept


def test_the_same_key_is_the_same_job_and_another_input_is_refused(roles: Roles) -> None:
    shop = roles.producer("shop")
    first = enqueue_job(shop, idempotency_key="order-1")

    assert enqueue_job(shop, idempotency_key="order-1", priority=1) == first
    assert enqueue_job(roles.connect(), idempotency_key="order-1") != first
    error = refused(shop, idempotency_key="order-1", input=SUMMARY | {"max_words": 21})
    assert error.sqlstate == "JOB03"
    assert str(first) in str(error)


def test_of_many_at_once_with_one_key_there_is_one_job(engine: Engine, roles: Roles) -> None:
    roles.producer("shop")

    def enqueue(_: int) -> object:
        return enqueue_job(roles.connect("shop"), idempotency_key="once")

    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(enqueue, range(16)))) == 1


def test_an_unknown_task_lists_those_there_are(roles: Roles) -> None:
    owner = roles.connect()
    for task in ("nonsense", "Summarize_Text", "", None, "x' OR 1=1 --\n"):
        with pytest.raises(psycopg.Error, match="unknown task") as caught:
            enqueue_job(owner, task=task)
        assert caught.value.sqlstate == "JOB01"
        assert f"there are {', '.join(sorted(load_registry()))}" in str(caught.value)


def test_before_a_worker_was_started_there_is_no_task(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM tasks"))

    with pytest.raises(psycopg.Error, match="there are none until a worker has been started"):
        enqueue_job(roles.connect())


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": [1]}, "input", "input is of JSON type array: an object is expected"),
    ({"input": Jsonb("text")}, "input", "of JSON type string"),
    ({"input": Jsonb(None)}, "input", "of JSON type null"),
    ({"input": None}, "input", "input is NULL"),
    ({"input": '{"n": [1e5000]}'}, "input", "input has a number of 1e308 or more"),
    ({"input": '{"n": {"m": -1e308}}'}, "input", "input has a number of 1e308 or more"),
    ({"input": '{"a":' * 151 + "1" + "}" * 151}, "input", "nested more than 150 levels deep"),
    ({"input": '{"a":' + "[" * 5000 + "]" * 5000 + "}"}, "input", "nested more than 150 levels"),
    ({"priority": -1}, "priority", "priority -1 is not between 0 (first) and 32767"),
    ({"priority": 32768}, "priority", "priority 32768"),
    ({"lane": "fast"}, "lane", "lane 'fast' is neither"),
    ({"max_attempts": 0}, "max_attempts", "max_attempts 0 is not between 1 and 999"),
    ({"run_at": "infinity"}, "run_at", "run_at infinity is not between the years 1 and 9999"),
    ({"run_at": "-infinity"}, "run_at", "run_at -infinity"),
    ({"run_at": "20000-01-01"}, "run_at", "run_at 20000"),
    ({"run_at": "0044-03-15 BC"}, "run_at", "run_at 0044"),
    ({"deadline": "2020-01-01"}, "deadline", "deadline 2020-01-01 00:00:00+00 has passed"),
    ({"deadline": "-infinity"}, "deadline", "deadline -infinity has passed"),
    ({"deadline": "infinity"}, "deadline", "deadline infinity is not between the years 1 and"),
    (
        {"deadline": "2030-01-01", "run_at": "2030-01-01"},
        "deadline",
        "deadline 2030-01-01 00:00:00+00 is not after run_at 2030-01-01 00:00:00+00",
    ),
    ({"user_id": "é" * 1001}, "user_id", "user_id is longer than 2000 bytes"),
    ({"idempotency_key": "x" * 2001}, "idempotency_key", "idempotency_key is longer than 2000"),
    ({"model": ""}, "model", "model is not between 1 and 200 characters"),
    ({"prompt_version": "9"}, "prompt_version", "summarize_text has no version '9'; there are"),
    ({"prompt_version": ""}, "prompt_version", "prompt_version '' is malformed"),
    ({"prompt_version": "1.0@12"}, "prompt_version", "prompt_version '1.0@12' is malformed"),
    ({"prompt_version": "1.0@" + "0" * 12}, "prompt_version", "has no version '1.0@0000"),
    ({"webhook_url": "shop.example"}, "webhook_url", "webhook_url is malformed"),
    ({"webhook_url": "javascript://x"}, "webhook_url", "webhook_url is malformed"),
    ({"webhook_url": "https://"}, "webhook_url", "webhook_url is malformed"),
    ({"webhook_url": "https://a/\r\nX: y"}, "webhook_url", "webhook_url is malformed"),
    ({"webhook_url": "https://a/ b"}, "webhook_url", "webhook_url is malformed"),
    ({"webhook_url": "https://a/" + "b" * 2048}, "webhook_url", "more than 2048 characters"),
]


def test_a_wrong_argument_is_named(roles: Roles) -> None:
    owner = roles.connect()
    for arguments, argument, expected in WRONG:
        error = refused(owner, **arguments)
        assert expected in str(error)
        assert (error.sqlstate, error.diag.column_name) == ("JOB02", argument)


def test_a_url_that_python_takes_is_taken(roles: Roles) -> None:
    owner = roles.connect()
    paths = ("a", "a.example:8443/x?y=%20#z", "u:p@a/", "[::1]:80/", "a?b", "a#c")
    for url in (f"{scheme}://{path}" for scheme in ("http", "HTTPS") for path in paths):
        load_registry()["summarize_text"].check_options({"webhook_url": url})
        enqueue_job(owner, webhook_url=url)


def test_what_looks_like_too_much_and_is_not_passes(roles: Roles) -> None:
    owner = roles.connect()
    for input in ('{"a": "%s"}' % ("9" * 400), '{"a":' * 150 + "1" + "}" * 150, '{"a": 1e307}'):
        enqueue_job(owner, input=input)


def test_an_input_that_is_too_large_is_refused(roles: Roles, engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(text("UPDATE tasks SET max_input_bytes = 100"))

    error = refused(roles.connect(), input=SUMMARY | {"text": "é" * 50})

    assert error.sqlstate == "JOB04"
    assert "bytes, the limit is 100 (CLAUDE_JOBS_MAX_INPUT_BYTES)" in str(error)
    enqueue_job(roles.connect(), input={"text": "é" * 40})


@pytest.mark.usefixtures("producer")
def test_what_sql_refuses_python_refuses() -> None:
    task = load_registry()["summarize_text"]
    for options in ({"user_id": "é" * 1001}, {"idempotency_key": "x" * 2001}):
        with pytest.raises(InvalidInput, match="longer than 2,000 bytes"):
            task.new_job(SUMMARY, **options)


def test_a_version_that_was_pinned_by_its_content_is_known(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        sha256 = connection.execute(
            text("SELECT sha256 FROM prompt_versions WHERE prompt = 'summarize_text' LIMIT 1")
        ).scalar_one()

    made = enqueue_job(roles.connect(), prompt_version=f"1.0@{sha256[:12]}")

    assert job(engine, made).prompt_version == f"1.0@{sha256[:12]}"


def test_a_task_has_its_own_attempts_and_webhook(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        connection.execute(text("UPDATE tasks SET max_attempts = 3, webhook_url = 'https://a/x'"))

    made = job(engine, enqueue_job(roles.connect()))
    other = job(engine, enqueue_job(roles.connect(), webhook_url="https://b/", max_attempts=9))

    assert (made.max_attempts, made.webhook_url) == (3, "https://a/x")
    assert (other.max_attempts, other.webhook_url) == (9, "https://b/")


def test_a_status_has_everything_in_one_row(engine: Engine, roles: Roles) -> None:
    shop = roles.producer("shop")
    made = enqueue_job(shop, task="summarize_text")
    with transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET task = 't'"))
        dispatch(connection)
        taken = claim(connection, made)
        assert taken is not None
        succeed(connection, taken, open_usage(connection, taken))
        connection.execute(text("UPDATE usage SET cost_usd = 0.25, output_tokens = 3"))

    shop.row_factory = dict_row
    status = shop.execute("SELECT * FROM job_status(%s)", [made]).fetchone()
    assert status is not None
    assert status["started_at"] <= status["finished_at"]
    assert {name: value for name, value in status.items() if not name.endswith("_at")} == {
        "id": made,
        "task": "t",
        "state": "succeeded",
        "output": {"a": 1},
        "error": None,
        "attempt": 1,
        "max_attempts": 5,
        "calls": 1,
        "input_tokens": 5,
        "output_tokens": 3,
        "cost_usd": Decimal("0.25"),
    }
    assert shop.execute("SELECT * FROM job_status(%s)", [uuid4()]).fetchone() is None
    assert shop.execute("SELECT * FROM job_status(NULL)").fetchone() is None


def test_the_database_knows_the_tasks_as_the_code_has_them(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        connection.execute(text("UPDATE tasks SET output_schema = '{}', max_attempts = 1"))
        connection.execute(text("DELETE FROM tasks WHERE name = 'classify_ticket'"))
    know_tasks(engine)

    registry = load_registry()
    with transaction(engine) as connection:
        known = {row.name: row for row in connection.execute(text("SELECT * FROM tasks"))}
    assert set(known) == set(registry)
    for name, row in known.items():
        assert row.input_schema == registry[name].input.model_json_schema()
        assert row.output_schema == registry[name].output_schema
        assert (row.prompt, row.max_attempts) == (
            registry[name].prompt,
            registry[name].max_attempts,
        )
        assert row.max_input_bytes == get_settings().max_input_bytes
