"""The views of usage: what they count, to whom they show it, and how they find a week."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from tests.integration.sql_world import Roles
from tests.usage_rows import TUESDAY, call, hit, job
from worker.storage.engine import transaction
from worker.storage.figures import COLUMNS, Figures

VIEWS = ("usage_daily", "usage_by_prompt", "usage_by_user", "usage_per_job")
DOLLARS = [name for name in COLUMNS if name.endswith("_usd")]


def query(engine: Engine, sql: str) -> list[dict[str, Any]]:
    with transaction(engine) as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


def only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns that are not zero of a single row."""
    (row,) = rows
    return {name: row[name] for name in COLUMNS if row.get(name)}


def test_a_plain_call_is_a_job_a_call_and_a_reply(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, input_tokens=7, cache_read_tokens=5, thinking_tokens=3)

    assert only(query(engine, "SELECT * FROM usage_daily")) == {
        "jobs": 1,
        "calls": 1,
        "replies": 1,
        "ok": 1,
        "input_tokens": 7,
        "cache_read_tokens": 5,
        "output_tokens": 200,
        "thinking_tokens": 3,
        "cost_usd": Decimal("0.0002"),
        "full_cost_usd": Decimal("0.0002"),
    }


def test_a_job_is_counted_once_however_often_it_was_tried(engine: Engine) -> None:
    nothing = {"complete": False, "cost_usd": None, "full_cost_usd": None, "output_tokens": 0}
    with transaction(engine) as connection:
        # Snoozed twice, and interrupted: these cost no attempt.
        for outcome in ("rate_limited", "rate_limited", "interrupted"):
            call(connection, outcome=outcome, **nothing)
        call(connection, outcome="overloaded", **nothing)
        call(connection, attempt=2, outcome="invalid_output")
        call(connection, attempt=2, call=2, outcome="truncated")
        call(connection, attempt=2, call=3)

    found = only(query(engine, "SELECT * FROM usage_daily"))
    assert found["jobs"] == 1
    assert found["calls"] == 7
    assert found["replies"] == 3
    assert [found[name] for name in ("ok", "invalid_output", "truncated", "follow_ups")] == [
        1,
        1,
        1,
        2,
    ]
    assert (found["rate_limited"], found["failed"]) == (2, 2)


def test_what_was_saved_is_told_by_what_saved_it(engine: Engine) -> None:
    with transaction(engine) as connection:
        # A read from the prompt cache, and a write that nobody read.
        call(connection, cost_usd="0.4", full_cost_usd="1")
        call(connection, cost_usd="1.25", full_cost_usd="1")
        # In a batch: half of what is left after the prompt cache.
        call(connection, source="batch", cost_usd="0.3", full_cost_usd="1")
        hit(connection, "2")
        hit(connection, "3", coalesced=True)

    row = {
        name: sum(each[name] for each in query(engine, "SELECT * FROM usage_daily"))
        for name in COLUMNS
    }
    assert row["saved_by_prompt_cache_usd"] == Decimal("0.6") - Decimal("0.25") + Decimal("0.4")
    assert row["saved_by_batch_usd"] == Decimal("0.3")
    assert row["saved_by_cache_usd"] == 2
    assert row["saved_by_coalescing_usd"] == 3
    saved = sum(row[name] for name in DOLLARS if name.startswith("saved"))
    assert saved == row["full_cost_usd"] - row["cost_usd"]
    assert (row["jobs"], row["calls"], row["replies"], row["ok"]) == (5, 3, 3, 3)
    assert (row["cache_hits"], row["coalesced_jobs"], row["batch_calls"]) == (1, 1, 1)


def test_unknown_prices_are_counted_and_add_nothing(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, cost_usd=None, full_cost_usd=None)
        call(connection, cost_usd=None, full_cost_usd=None, complete=False, outcome="timeout")
        # From before full prices were kept.
        call(connection, cost_usd="0.5", full_cost_usd=None)
        call(connection, cost_usd="0.5", full_cost_usd=None, source="batch")
        # The result of a call without a price.
        hit(connection, "0", full_cost_usd=None)

    rows = query(engine, "SELECT * FROM usage_daily")
    assert sum(row["unpriced"] for row in rows) == 1
    assert sum(row["without_full_cost"] for row in rows) == 3
    assert sum(row["cost_usd"] for row in rows) == 1
    assert sum(row["full_cost_usd"] for row in rows) == Decimal("1.5")
    assert sum(row["saved_by_batch_usd"] for row in rows) == Decimal("0.5")
    assert sum(row["saved_by_prompt_cache_usd"] for row in rows) == 0


def test_days_are_those_of_utc_whatever_the_session_s_zone(engine: Engine) -> None:
    with transaction(engine) as connection:
        for hour in (0, 23):
            call(connection, created_at=datetime(2026, 11, 17, hour, 59, tzinfo=UTC))
        connection.execute(text("SET LOCAL timezone = 'Pacific/Auckland'"))
        days = connection.execute(text("SELECT day, calls FROM usage_daily")).all()

    assert [tuple(day) for day in days] == [(date(2026, 11, 17), 2)]


def test_every_view_adds_up_to_the_same(engine: Engine) -> None:
    with transaction(engine) as connection:
        for number, user in enumerate(("ann", "bob", None)):
            made = job(connection, number + 1)
            for version in ("1.0", "1.1"):
                for day in range(3):
                    call(
                        connection,
                        job_id=made,
                        user_id=user,
                        prompt_version=version,
                        service=user,
                        model=f"model-{number}",
                        created_at=TUESDAY - timedelta(days=day),
                    )
        hit(connection, "1", job_id=made)

    sums = []
    for view in VIEWS:
        rows = query(engine, f"SELECT * FROM {view}")
        assert len(rows) > 3
        sums.append({name: sum(row[name] for row in rows) for name in COLUMNS if name in rows[0]})
    for found in sums[1:]:
        assert found == {name: sums[0][name] for name in found}


def test_figures_outlive_their_jobs(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, 3, job_id=job(connection, 1))
    before = {view: query(engine, f"SELECT * FROM {view}") for view in VIEWS}
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM jobs"))

    for view in VIEWS[:3]:
        assert query(engine, f"SELECT * FROM {view}") == before[view]
    assert query(engine, "SELECT * FROM usage_per_job") == []


def test_lengths_are_those_of_replies(engine: Engine) -> None:
    with transaction(engine) as connection:
        for tokens in range(1, 101):
            call(connection, output_tokens=tokens)
        call(connection, output_tokens=5000, complete=False, outcome="interrupted")
        hit(connection, "1")

    (row,) = query(engine, "SELECT * FROM usage_by_prompt")
    lengths = [row[f"output_tokens_{name}"] for name in ("p50", "p95", "max")]
    assert lengths == [50, 95, 100]


def test_the_columns_of_the_views_are_those_that_are_read(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection)
    (row,) = query(engine, "SELECT * FROM usage_daily")
    types = {name: type(row[name]) for name in COLUMNS}
    assert types == {name: type(getattr(Figures(), name)) for name in COLUMNS}


def test_a_week_is_found_by_its_index(engine: Engine) -> None:
    with transaction(engine) as connection:
        made = job(connection, 1)
        for day in range(60):
            call(connection, 2000, job_id=made, created_at=TUESDAY - timedelta(days=60 - day))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE) usage"))  # summarizes the index as well
        for view in VIEWS:
            plan = connection.execute(
                text(f"EXPLAIN SELECT sum(cost_usd) FROM {view} WHERE day >= '2026-11-10'")
            ).scalars()
            assert "usage_by_day" in "\n".join(plan), view


def test_a_producer_may_not_read_the_views_and_a_reader_may(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        for service in ("shop", "mail"):
            call(connection, service=service)
    shop, analyst = roles.producer("shop"), roles.reader("analyst")

    assert shop.execute("SELECT count(*) FROM usage").fetchall() == [(1,)]
    for view in VIEWS:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.execute(f"SELECT * FROM {view}".encode())
    found = analyst.execute("SELECT sum(calls) FROM usage_daily").fetchall()
    assert found == [(2,)]


def test_a_producer_that_could_read_a_view_is_not_made_one(engine: Engine, roles: Roles) -> None:
    with transaction(engine) as connection:
        connection.execute(text("GRANT SELECT ON usage_by_user TO PUBLIC"))
    with pytest.raises(psycopg.Error, match=r"SELECT on \S*usage_by_user"):
        roles.producer("shop")
