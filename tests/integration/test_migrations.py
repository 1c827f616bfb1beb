"""The schema: up, down, twice at once, and the same as the models'."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from sandbox.stack import Stack
from worker.errors import SchemaMismatch
from worker.settings import PROJECT
from worker.storage.engine import build_engine, transaction
from worker.storage.models import Base
from worker.storage.schema import current, head, migrate, require_head

COMMAND = str(Path(sys.executable).with_name("claude-jobs"))


@pytest.fixture
def empty(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database that was never migrated."""
    name = f"empty_{abs(hash(request.node.name)) % 10**9}"
    engine = build_engine(stack.postgres.create_database(name))
    yield engine
    engine.dispose()
    stack.postgres.drop_database(name)


@pytest.fixture
def another(stack: Stack) -> Iterator[Engine]:
    """One more."""
    engine = build_engine(stack.postgres.create_database("another"))
    yield engine
    engine.dispose()
    stack.postgres.drop_database("another")


def definitions(connection: Connection) -> dict[str, str]:
    """Every column, constraint and index as Postgres writes it down."""
    found = connection.execute(
        text("""
        SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
        UNION ALL
        SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT table_name || '.' || column_name,
               concat_ws(' ', data_type, numeric_precision, numeric_scale, is_nullable,
                         column_default, identity_generation)
        FROM information_schema.columns WHERE table_schema = 'public'
        """)
    )
    return {name: definition for name, definition in found if "alembic_version" not in name}


def view_columns(connection: Connection) -> set[str]:
    """The names under which `definitions` lists what views show."""
    found = connection.execute(
        text("""
        SELECT table_name || '.' || column_name
        FROM information_schema.columns
        JOIN information_schema.views USING (table_schema, table_name)
        WHERE table_schema = 'public'
        """)
    )
    return set(found.scalars())


def objects(connection: Connection) -> list[str]:
    """What is left in a database besides Alembic's own table."""
    found = connection.execute(
        text("""
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
        """)
    )
    return sorted(name for name in found.scalars() if "alembic_version" not in name)


def test_models_and_migrations_agree(empty: Engine, another: Engine) -> None:
    with transaction(empty) as connection:
        migrate(connection)
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        migrated, views = definitions(connection), view_columns(connection)
    with transaction(another) as connection:
        Base.metadata.create_all(connection)
        modelled = definitions(connection)

    # Views are no models: they are tested by what they show.
    assert {key: value for key, value in migrated.items() if key not in views} == modelled
    assert len([name for name in migrated if name.startswith("jobs.")]) > 20


def test_every_migration_goes_up_down_and_up_again(empty: Engine) -> None:
    revisions = [step.revision for step in scripts().walk_revisions()][::-1]
    seen = []
    with transaction(empty) as connection:
        for revision in revisions:
            migrate(connection, revision)
            seen.append(definitions(connection))
        for revision, before in list(zip(revisions, seen, strict=True))[-2::-1]:
            migrate(connection, revision)
            assert definitions(connection) == before
        assert migrate(connection, "base") == (revisions[0], None)
        assert objects(connection) == []
        migrate(connection)
        assert definitions(connection) == seen[-1]


@pytest.mark.parametrize("role", ["enqueuer_of_old", "Web:shop of 50%"])
def test_whoever_could_enqueue_by_sql_still_can_when_the_function_has_changed(
    empty: Engine, role: str
) -> None:
    named, quoted = role.replace(":", r"\:"), '"' + role.replace(":", r"\:") + '"'
    may = text(f"SELECT has_function_privilege('{named}', 'enqueue_job'::regproc, 'EXECUTE')")
    others = text("SELECT has_function_privilege('pg_monitor', 'enqueue_job'::regproc, 'EXECUTE')")
    with transaction(empty) as connection:
        connection.execute(text(f"CREATE ROLE {quoted}"))
        migrate(connection, "0012")
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION enqueue_job TO {quoted}"))
        for revision in (head(), "0012"):
            migrate(connection, revision)
            assert connection.scalar(may)
            assert not connection.scalar(others)
        connection.execute(text(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}"))


def scripts() -> ScriptDirectory:
    return ScriptDirectory(str(PROJECT / "migrations"))


def test_there_is_one_newest_migration() -> None:
    assert scripts().get_heads() == [head()]


def test_migrating_twice_changes_nothing(empty: Engine) -> None:
    with transaction(empty) as connection:
        assert migrate(connection) == (None, head())
    with transaction(empty) as connection:
        assert migrate(connection) == (head(), head())
        require_head(connection)


def test_a_migration_that_fails_leaves_nothing_behind(empty: Engine) -> None:
    with transaction(empty) as connection:
        connection.execute(text("CREATE TABLE usage (mine int)"))

    with pytest.raises(Exception, match="usage"), transaction(empty) as connection:
        migrate(connection)

    with transaction(empty) as connection:
        assert current(connection) is None
        assert objects(connection) == ["_usage", "usage", "usage"]


def test_two_processes_that_migrate_at_once_both_succeed(empty: Engine, tmp_path: Path) -> None:
    url = empty.url.set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:9/0",
    }

    both = [
        subprocess.Popen(
            [COMMAND, "migrate"],
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    said = sorted(process.communicate(timeout=60)[1].strip() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said == [
        f"migrated from base to {head()}",
        f"nothing to do: the database is at {head()}",
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "has no schema yet.*run `claude-jobs migrate`"),
        ("0001", "is at migration 0001.*run `claude-jobs migrate`"),
        ("9999", "is at migration 9999, newer than this code.*deploy"),
    ],
)
def test_another_schema_than_the_code_s_is_one_line_that_says_what_to_do(
    empty: Engine, found: str | None, expected: str
) -> None:
    with transaction(empty) as connection:
        if found is not None:
            migrate(connection)
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": found})
        if found == head():
            pytest.skip("the first migration is the newest")
        with pytest.raises(SchemaMismatch, match=expected) as caught:
            require_head(connection)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", ["9999", "nonsense", "+50", "0001:head"])
def test_an_unknown_revision_is_one_line(empty: Engine, revision: str) -> None:
    with pytest.raises(SchemaMismatch, match="cannot migrate") as caught, transaction(empty) as it:
        migrate(it, revision)
    assert "\n" not in str(caught.value)


def test_a_database_ahead_of_the_code_is_not_touched(empty: Engine) -> None:
    with transaction(empty) as connection:
        migrate(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="9999"), transaction(empty) as connection:
        migrate(connection)
