"""Both clients behind one face, before a gateway that is reached through a faulty server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from claude_jobs_client import AsyncJobsClient, JobsClient, Retries
from sandbox.stack import Stack
from tests.gateway import Gateway
from tests.integration.client.faulty import Faulty, faulty_server
from worker.storage.engine import build_engine

QUICK = Retries(tries=4, first=0.01, longest=0.05)
NOBODY = "cj_" + "x" * 43

Connect = Callable[..., Any]


class Blocking:
    """An `AsyncJobsClient` that is called as a `JobsClient` is: one suite holds for both."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncJobsClient(*args, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            made = method(*args, **options)
            return self._each(made) if hasattr(made, "__anext__") else self._runner.run(made)

        return call

    def _each(self, made: Any) -> Iterator[Any]:
        async def next_one() -> Any:
            return await anext(made, None)

        try:
            while (one := self._runner.run(next_one())) is not None:
                yield one
        finally:
            self._runner.run(made.aclose())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(scope="package")
def gateway(stack: Stack) -> Iterator[Gateway]:
    """A gateway without workers: tests end the jobs themselves."""
    database = stack.postgres.create_database("client_gateway", template="migrated")
    redis = stack.valkey.url.removesuffix("/0") + "/1041"
    service = stack.start_api("client-api", DATABASE_URL=database, REDIS_URL=redis)
    engine = build_engine(database)
    yield Gateway(stack.api_url, engine, service)
    service.stop()
    engine.dispose()
    stack.postgres.drop_database("client_gateway")


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """A server that has no gateway behind it."""
    with faulty_server("http://127.0.0.1:9") as server:
        yield server


@pytest.fixture
def before(gateway: Gateway) -> Iterator[Faulty]:
    """A faulty server before the gateway."""
    with faulty_server(gateway.url) as server:
        yield server


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client of either kind."""
    made: list[Any] = []

    def make(url: str, key: str = NOBODY, **options: Any) -> Any:
        kind: Any = JobsClient if request.param == "threads" else Blocking
        made.append(kind(url, key, **{"retries": QUICK, "timeout": 5.0} | options))
        return made[-1]

    yield make
    for client in made:
        client.close()
