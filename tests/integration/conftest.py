"""A fresh database for tests of statements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from worker.storage.engine import build_engine


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    """A fresh database, with connections for 60 threads."""
    engine = build_engine(environment["DATABASE_URL"], pool_size=60)
    yield engine
    engine.dispose()
