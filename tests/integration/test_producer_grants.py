"""What the grants of a producer and of a reader are, and who gets none."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine

from tests.integration.command import Run
from tests.integration.producer_world import _no_memberships_left, denied, finished, shop, values
from tests.integration.sql_world import Roles
from worker.errors import InvalidInput
from worker.storage import grants
from worker.storage.engine import transaction
from worker.storage.models import Base

__all__ = ["_no_memberships_left", "finished", "shop"]  # the fixtures

TABLES = sorted([*Base.metadata.tables, "alembic_version"])


def test_before_the_grant_nobody_may_enqueue(roles: Roles) -> None:
    roles.create("stranger")
    stranger = roles.connect("stranger")

    denied(
        stranger,
        "SELECT enqueue_job('summarize_text', '{}')",
        "SELECT * FROM job_status(gen_random_uuid())",
        *(f"SELECT * FROM {table}" for table in TABLES),
    )


def test_row_level_security_changes_nothing_for_others(
    roles: Roles, finished: dict[str | None, UUID]
) -> None:
    """For the owner, a role with all rights (a worker that did not migrate), and a plain reader."""
    owner = roles.connect()
    roles.create("app")
    roles.create("bi")
    owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT SELECT ON jobs TO bi")

    for role in (None, "app", "bi"):
        connection = roles.connect(role)
        assert set(values(connection, "SELECT id FROM jobs")) == set(finished.values())
        plan = "\n".join(
            values(connection, "EXPLAIN SELECT * FROM jobs WHERE id = 'a%s'" % ("0" * 31))
        )
        assert "Filter" not in plan
    app = roles.connect("app")
    app.execute("UPDATE jobs SET priority = 1")
    app.execute("INSERT INTO jobs (task, input, service) VALUES ('t', '{}', 'any')")
    app.execute("DELETE FROM jobs")
    assert values(owner, "SELECT count(*) FROM jobs") == [0]


def test_a_reader_reads_results_usage_alerts_budgets_and_prompts(
    roles: Roles, finished: dict[str | None, UUID]
) -> None:
    reader = roles.reader("analyst")
    prompts = [table for table in TABLES if table.startswith("prompt_")]
    readable = ["alerts", "budget_windows", "budgets", "results", "usage", *prompts]

    assert len(values(reader, "SELECT job_id FROM results")) == 3
    for table in readable:
        reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
    reader.execute("SELECT * FROM budget_status")
    denied(
        reader,
        *(f"SELECT * FROM {table}" for table in TABLES if table not in readable),
        *(f"DELETE FROM {table}" for table in TABLES),
        "SELECT enqueue_job('summarize_text', '{}')",
        "SELECT * FROM job_status(gen_random_uuid())",
    )


CARELESS = [
    ("GRANT SELECT ON api_keys TO PUBLIC", "SELECT on public.api_keys"),
    ("GRANT UPDATE (priority) ON jobs TO PUBLIC", "UPDATE on public.jobs"),
    ("GRANT ALL ON usage TO team", "DELETE on public.usage"),
    ("GRANT pg_read_all_data TO careless", "SELECT on public.alerts"),
    ("ALTER ROLE careless BYPASSRLS", "ALL, as a superuser or past row-level security"),
    ("GRANT postgres TO team", "ALL, as a superuser"),
]


def test_a_role_that_could_do_more_is_granted_nothing(roles: Roles) -> None:
    roles.create("team", "NOLOGIN")
    roles.create("careless", "LOGIN NOINHERIT")
    owner = roles.connect()
    owner.execute("GRANT team TO careless")
    for before, reason in CARELESS:
        owner.execute(before.encode())
        with pytest.raises(psycopg.Error, match="nothing was granted: careless could") as caught:
            roles.grant("producer", "careless")
        assert reason in str(caught.value)
        denied(roles.connect("careless"), "SELECT enqueue_job('summarize_text', '{}')")
        owner.execute("""
            REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, team;
            REVOKE UPDATE (priority) ON jobs FROM PUBLIC;
            REVOKE pg_read_all_data FROM careless; REVOKE postgres FROM team;
            ALTER ROLE careless NOBYPASSRLS
        """)
    roles.grant("producer", "careless")


def test_what_a_role_had_of_ours_goes_and_the_rest_stays(roles: Roles) -> None:
    roles.create("shop")
    owner = roles.connect()
    owner.execute("CREATE TABLE orders (id int); GRANT ALL ON orders, jobs, api_keys TO shop")

    shop = roles.producer("shop")
    roles.grant("producer", "shop")  # again

    shop.execute("INSERT INTO orders VALUES (1)")
    denied(shop, "DELETE FROM jobs", "SELECT * FROM api_keys")


def test_a_producer_s_grants_go_when_the_schema_does(run: Run, roles: Roles) -> None:
    roles.producer("shop")

    assert run("migrate", "0010").code == 0
    denied(roles.connect("shop"), "SELECT * FROM jobs")
    assert run("migrate", "base").code == 0


def test_the_command_prints_the_script(run: Run, roles: Roles) -> None:
    name = roles.create('Odd "name"; --')
    for part in ("producer", "reader"):
        printed = run("grants", part, name)
        assert printed.code == 0
        assert 'TO "Odd ""name""; --"' in printed.out
        roles.connect().execute(printed.out.encode())
        roles.connect(name).execute("SELECT * FROM results")


def test_a_name_that_is_no_single_role_is_refused(engine: Engine) -> None:
    for name in ("", "public", "none", "pg_read_all_data", "a\nb", "é" * 32):
        with transaction(engine) as connection, pytest.raises(InvalidInput, match="role "):
            grants.producer_script(connection, name)
