"""One gateway for all modules; each test has services of its own in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.stack import Stack
from tests.gateway import SETTINGS, Gateway
from worker.storage.engine import build_engine


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> Iterator[Gateway]:
    """A running gateway."""
    database = stack.postgres.create_database("gateway", template="migrated")
    redis = stack.valkey.url.removesuffix("/0") + "/1040"
    service = stack.start_api(DATABASE_URL=database, REDIS_URL=redis, **SETTINGS)
    engine = build_engine(database)
    yield Gateway(stack.api_url, engine, service)
    service.stop()
    engine.dispose()
    stack.postgres.drop_database("gateway")
