"""A producer's role, attacked: it may enqueue, see its own rows, and nothing else."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, text

from tests.integration.producer_world import _no_memberships_left, denied, finished, shop, values
from tests.integration.sql_world import SUMMARY, Roles, enqueue_job
from worker.storage.engine import transaction
from worker.storage.models import Base

__all__ = ["_no_memberships_left", "finished", "shop"]  # the fixtures

TABLES = sorted([*Base.metadata.tables, "alembic_version"])
OWN = ("jobs", "results", "usage")


def test_a_producer_sees_its_own_rows_and_no_others(
    roles: Roles, finished: dict[str | None, UUID]
) -> None:
    for service in ("shop", "mail"):
        connection = roles.connect(service)
        mine = finished[service]
        assert values(connection, "SELECT id FROM jobs") == [mine]
        assert values(connection, "SELECT job_id FROM results") == [mine]
        assert values(connection, "SELECT job_id FROM usage") == [mine]
        for other in finished.values():
            seen = connection.execute("SELECT id FROM job_status(%s)", [other]).fetchall()
            assert seen == ([(mine,)] if other == mine else [])


def test_usage_stays_its_service_s_when_the_job_is_gone(
    roles: Roles, finished: dict[str | None, UUID]
) -> None:
    roles.connect().execute("DELETE FROM jobs")

    assert values(roles.connect("shop"), "SELECT service FROM usage") == ["shop"]


def test_a_producer_may_not_touch_anything(
    shop: psycopg.Connection[Any], finished: dict[str | None, UUID]
) -> None:
    denied(
        shop,
        "INSERT INTO jobs (task, input, service) VALUES ('summarize_text', '{}', 'shop')",
        "UPDATE jobs SET priority = 0",
        "UPDATE jobs SET service = 'mail'",
        "DELETE FROM jobs",
        "SELECT * FROM jobs FOR UPDATE",
        "SELECT * FROM jobs FOR KEY SHARE",
        "DO $$BEGIN LOCK TABLE jobs IN EXCLUSIVE MODE; END$$",
        "TRUNCATE jobs CASCADE",
        "UPDATE results SET output = '{}'",
        "DELETE FROM usage",
        "INSERT INTO tasks SELECT * FROM tasks",
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE jobs DISABLE TRIGGER ALL",
        "CREATE POLICY mine ON jobs USING (true)",
        "DROP POLICY claude_jobs_everybody ON jobs",
        "CREATE TRIGGER t BEFORE INSERT ON jobs EXECUTE FUNCTION notify_job_due()",
        "CREATE INDEX ON jobs (input)",
        "CREATE TABLE public.tasks_ (x int)",
        "ALTER FUNCTION enqueue_job SECURITY INVOKER",
        "COMMENT ON TABLE jobs IS 'mine'",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY jobs TO PROGRAM 'true'",
        "COPY jobs FROM STDIN",
        "ALTER ROLE shop BYPASSRLS",
        "CREATE ROLE another",
    )  # fmt: skip
    denied(shop, *(f"SELECT * FROM {table}" for table in TABLES if table not in OWN))
    assert values(shop, "SELECT count(*) FROM jobs WHERE priority = 100") == [1]


def test_a_producer_cannot_become_anybody_else(
    roles: Roles, shop: psycopg.Connection[Any], finished: dict[str | None, UUID]
) -> None:
    denied(
        shop,
        "SET ROLE postgres",
        "SET ROLE mail",
        "SET SESSION AUTHORIZATION mail",
        "SELECT set_config('role', 'mail', false)",
        "SELECT set_config('session_authorization', 'postgres', false)",
        "GRANT mail TO shop",
    )
    shop.execute("SET row_security = off")
    with pytest.raises(psycopg.Error, match="would be affected by row-level security"):
        shop.execute("SELECT * FROM jobs")
    shop.execute("RESET row_security; SET application_name = 'mail'; SET ROLE shop")
    assert values(shop, "SELECT id FROM jobs") == [finished["shop"]]
    assert enqueue_job(shop) in values(roles.connect("shop"), "SELECT id FROM jobs")


def test_a_role_that_acts_as_a_producer_is_that_service(roles: Roles) -> None:
    """A pool that logs in once and says SET ROLE for each service."""
    roles.producer("shop")
    roles.producer("mail")
    roles.create("pool", "LOGIN NOINHERIT")
    roles.connect().execute("GRANT shop, mail TO pool")
    pool = roles.connect("pool")
    denied(pool, "SELECT enqueue_job('summarize_text', '{}')", "SELECT * FROM jobs")

    pool.execute("SET ROLE shop")
    of_shop = enqueue_job(pool)
    pool.execute("SET ROLE mail")
    of_mail = enqueue_job(pool)

    assert values(pool, "SELECT id FROM jobs") == [of_mail]
    assert values(roles.connect("shop"), "SELECT id FROM jobs") == [of_shop]


def test_what_a_producer_puts_in_the_way_is_not_looked_at(
    engine: Engine, shop: psycopg.Connection[Any], finished: dict[str | None, UUID]
) -> None:
    shop.execute("""
        CREATE TEMP TABLE jobs (LIKE public.jobs INCLUDING ALL);
        CREATE TEMP TABLE tasks (name text, prompt text, max_attempts int, max_input_bytes int);
        INSERT INTO tasks VALUES ('mine', 'mine', 1000, 2000000000);
        CREATE TEMP TABLE prompt_versions (prompt text, version text, sha256 text);
        CREATE FUNCTION pg_temp.jsonb_typeof(jsonb) RETURNS text
            LANGUAGE sql AS $$SELECT 'object'$$;
        CREATE FUNCTION pg_temp.octet_length(text) RETURNS int LANGUAGE sql AS $$SELECT 0$$;
        CREATE FUNCTION pg_temp.pg_has_role(text, name, text) RETURNS boolean
            LANGUAGE sql AS $$SELECT true$$;
        CREATE FUNCTION pg_temp.is_it(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT true$$;
        CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.is_it);
        SET search_path = pg_temp, public, pg_catalog
    """)

    with pytest.raises(psycopg.Error, match="unknown task 'mine'"):
        enqueue_job(shop, task="mine")
    with pytest.raises(psycopg.Error, match="of JSON type array"):
        enqueue_job(shop, input=[1])
    made = enqueue_job(shop)
    with transaction(engine) as connection:
        stored = connection.execute(
            text("SELECT service FROM public.jobs WHERE id = :id"), {"id": made}
        ).scalar_one()
    assert stored == "shop"
    status = shop.execute("SELECT id FROM public.job_status(%s)", [finished["mail"]])
    assert status.fetchall() == []


def test_what_a_producer_computes_with_gets_its_own_rows_only(
    shop: psycopg.Connection[Any], finished: dict[str | None, UUID]
) -> None:
    """A function so cheap that the planner would like to ask it first."""
    seen: list[str] = []
    shop.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
    shop.execute("""
        CREATE FUNCTION pg_temp.tell(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS $$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$
    """)
    for table, column in (("jobs", "id"), ("results", "job_id"), ("usage", "job_id")):
        shop.execute(f"SELECT FROM {table} WHERE pg_temp.tell({column})".encode())
        shop.execute(f"EXPLAIN ANALYZE SELECT FROM {table} WHERE pg_temp.tell({column})".encode())
    shop.execute("CREATE TEMP VIEW mine AS SELECT * FROM jobs")
    shop.execute("SELECT FROM mine WHERE pg_temp.tell(id)")

    assert set(seen) == {str(finished["shop"])}
    assert len(values(shop, "SELECT * FROM pg_stats WHERE tablename IN ('jobs', 'results')")) == 0
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught:
        shop.execute("SELECT cast(input ->> 'text' AS int) FROM jobs")
    assert "A text." in str(caught.value)  # its own


def test_sql_in_an_argument_is_a_text(engine: Engine, roles: Roles) -> None:
    shop = roles.producer("shop")
    hostile = [
        "'; DROP TABLE jobs; --",
        "$function$; DROP TABLE jobs; --",
        "%s %I %L %1$s {schema} {{ 7*7 }}",
        "\\'; SELECT pg_sleep(10); --",
        "' || (SELECT string_agg(sha256::text, '') FROM api_keys) || '",
    ]
    for given in hostile:
        for argument in ("task", "lane", "prompt_version", "webhook_url"):
            with pytest.raises(psycopg.Error) as caught:
                enqueue_job(shop, **{argument: given})
            assert (caught.value.sqlstate or "").startswith("JOB0")
        made = enqueue_job(
            shop, input=SUMMARY | {"text": given}, idempotency_key=given, user_id=given, model=given
        )
        with transaction(engine) as connection:
            row = connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": made}).one()
        assert (row.idempotency_key, row.user_id, row.model) == (given, given, given)
        assert row.input["text"] == given
        with pytest.raises(psycopg.Error) as caught:
            enqueue_job(shop, idempotency_key=given)
        assert caught.value.sqlstate == "JOB03"


def test_a_key_of_another_service_is_free_and_tells_nothing(roles: Roles) -> None:
    secret = enqueue_job(roles.producer("mail"), idempotency_key="k")

    mine = enqueue_job(roles.producer("shop"), idempotency_key="k", input={"other": 1})

    assert mine != secret


def test_a_role_that_was_renamed_is_held_to_its_rows_when_another_gets_its_name(
    roles: Roles,
) -> None:
    enqueue_job(roles.producer("shop"))
    owner, old, new = roles.connect(), f"old-{uuid4()}", f"new-{uuid4()}"
    roles.producer(old).close()
    rename = sql.SQL("ALTER ROLE {0} RENAME TO {1}; ALTER ROLE {1} PASSWORD {2}")
    owner.execute(rename.format(sql.Identifier(old), sql.Identifier(new), sql.Literal(new)))
    try:
        roles.producer(old)
        renamed = roles.connect(new)
        assert values(renamed, "SELECT id FROM jobs") == []
        mine = enqueue_job(renamed)
        assert values(renamed, "SELECT id FROM jobs") == [mine]
    finally:
        drop = sql.SQL("DROP OWNED BY {0}, {1}; DROP ROLE {0}, {1}")
        owner.execute(drop.format(sql.Identifier(old), sql.Identifier(new)))
