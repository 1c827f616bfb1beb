"""One simulated Claude for all modules, as it was at its start for each test."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from anthropic import Anthropic, DefaultHttpxClient

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import Config


@pytest.fixture(scope="session")
def server() -> Iterator[SimulatedClaude]:
    with SimulatedClaude(seed=7) as claude:
        yield claude


@pytest.fixture
def claude(server: SimulatedClaude) -> SimulatedClaude:
    server.configure(**Config().model_dump())
    server.reset()
    return server


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """For clients that never use it: to build one anew is most of what a client costs."""
    return ssl.create_default_context()


@pytest.fixture
def sdk(claude: SimulatedClaude, tls: ssl.SSLContext) -> Iterator[Anthropic]:
    with Anthropic(
        api_key="any",
        base_url=claude.url,
        max_retries=0,
        timeout=5,
        http_client=DefaultHttpxClient(verify=tls),
    ) as client:
        yield client
