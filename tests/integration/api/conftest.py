"""One gateway for all modules; each test has services of its own in it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
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


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    """A client of a service of its own."""
    with gateway.client() as client:
        yield client


@pytest.fixture
def unharmed(gateway: Gateway) -> Iterator[None]:
    """Whatever a test sends: the gateway serves on, and its log says nothing of an input."""
    yield
    assert httpx2.get(gateway.url + "/readyz").status_code == 200
    log = gateway.process.log_text()
    assert "Traceback" not in log
    assert "request failed" not in log
    assert "SECRET" not in log
