"""A fresh database for tests of statements, and the command on a fresh system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.integration.command import Rows, Run
from tests.integration.hook import Hook
from tests.integration.sql_world import Roles, know_tasks
from worker.storage.engine import build_engine, transaction


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    """A fresh database, with connections for 60 threads."""
    engine = build_engine(environment["DATABASE_URL"], pool_size=60)
    yield engine
    engine.dispose()


@pytest.fixture
def run(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """The command, on a fresh system, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Run(environment, monkeypatch, capsys)


@pytest.fixture
def rows(environment: dict[str, str]) -> Iterator[Rows]:
    """Runs a query on the fresh system's database."""
    engine = build_engine(environment["DATABASE_URL"])

    def query(sql: str) -> list[Any]:
        with transaction(engine) as connection:
            return list(connection.execute(text(sql)).mappings())

    yield query
    engine.dispose()


@pytest.fixture
def roles(engine: Engine, producer: None) -> Iterator[Roles]:
    """Other services' roles, on a database that knows the tasks."""
    know_tasks(engine)
    made = Roles(engine)
    yield made
    made.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook on loopback."""
    started = Hook()
    yield started
    started.close()
