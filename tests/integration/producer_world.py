"""Producers with rows of their own and of others, and what they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, text

from tests.integration.sql_world import Roles, enqueue_job
from tests.integration.steps import claim, dispatch, open_usage, succeed
from worker.storage.engine import transaction


@pytest.fixture
def finished(engine: Engine, roles: Roles) -> dict[str | None, UUID]:
    """A job that succeeded of each service: `shop`, `mail`, and none."""
    made = {
        "shop": enqueue_job(roles.producer("shop")),
        "mail": enqueue_job(roles.producer("mail")),
        None: enqueue_job(roles.connect()),
    }
    with transaction(engine) as connection:
        connection.execute(text("UPDATE jobs SET task = 't'"))
        dispatch(connection)
        for job_id in made.values():
            taken = claim(connection, job_id)
            assert taken is not None
            succeed(connection, taken, open_usage(connection, taken))
    return made


@pytest.fixture
def shop(roles: Roles) -> psycopg.Connection[Any]:
    """A connection as the producer `shop`."""
    return roles.producer("shop")


def values(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return [row[0] for row in connection.execute(query.encode())]


def denied(connection: psycopg.Connection[Any], *statements: str) -> None:
    """Each of the statements is refused, and for no other reason than that."""
    for statement in statements:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            continue
        pytest.fail(f"not refused: {statement}")


@pytest.fixture(autouse=True)
def _no_memberships_left(roles: Roles) -> Iterator[None]:
    """Roles are the server's, not the database's."""
    yield
    owner = roles.connect()
    known = values(owner, "SELECT rolname FROM pg_roles")
    for member in {"pool", "careless"} & set(known):
        for group in {"shop", "mail", "team"} & set(known):
            owner.execute(f"REVOKE {group} FROM {member}".encode())
