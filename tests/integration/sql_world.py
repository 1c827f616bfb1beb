"""Database roles as other services have them, with what `claude-jobs grants` gives them."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from worker.engine.catalog import register
from worker.engine.known import register_tasks
from worker.engine.registry import load_registry
from worker.storage import grants
from worker.storage.engine import transaction

SUMMARY = {"text": "A text.", "max_words": 20, "audience": "all"}


def know_tasks(engine: Engine) -> None:
    """What a worker leaves in the database when it starts."""
    with transaction(engine) as connection:
        register(connection, load_registry().prompts)
        register_tasks(connection, load_registry())


class Roles:
    """Creates roles on one database, and connects as them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._open: list[psycopg.Connection[Any]] = []

    def create(self, name: str, options: LiteralString = "LOGIN") -> str:
        """A role that is new in this database; its password is its name."""
        with self.connect() as owner:
            known = owner.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
            statement = sql.SQL("{} ROLE {} PASSWORD {} {}").format(
                sql.SQL("ALTER" if known is not None else "CREATE"),
                sql.Identifier(name),
                sql.Literal(name),
                sql.SQL(options),
            )
            owner.execute(statement)
        return name

    def producer(self, name: str) -> psycopg.Connection[Any]:
        """A connection as a role that may produce."""
        self.create(name)
        self.grant("producer", name)
        return self.connect(name)

    def reader(self, name: str) -> psycopg.Connection[Any]:
        """A connection as a role that may read."""
        self.create(name)
        self.grant("reader", name)
        return self.connect(name)

    def grant(self, part: str, name: str) -> None:
        """Run the script of that part for that role."""
        script = {"producer": grants.producer_script, "reader": grants.reader_script}[part]
        with transaction(self.engine) as connection:
            text = script(connection, name)
        with self.connect() as owner:
            owner.execute(text.encode())

    def connect(self, name: str | None = None) -> psycopg.Connection[Any]:
        """A connection in autocommit, as the owner unless a role is named."""
        url = make_url(self.engine.url).set(drivername="postgresql")
        login = {} if name is None else {"user": name, "password": name}
        connection = psycopg.connect(
            url.render_as_string(hide_password=False), autocommit=True, **login
        )
        self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def enqueue_job(connection: psycopg.Connection[Any], **arguments: Any) -> UUID:
    """`SELECT enqueue_job(task => …, …)`, of a summary unless another task or input is given."""
    given = {"task": "summarize_text", "input": SUMMARY} | arguments
    values = {
        name: Jsonb(value) if isinstance(value, dict | list) else value
        for name, value in given.items()
    }
    called = sql.SQL("SELECT public.enqueue_job({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in values
        )
    )
    row = connection.execute(called, values).fetchone()
    assert row is not None
    found: UUID = row[0]
    return found
