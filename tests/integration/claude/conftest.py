"""One simulated Claude for a module, as it was at its start for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anthropic import Anthropic

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import Config


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedClaude]:
    with SimulatedClaude(seed=7) as claude:
        yield claude


@pytest.fixture
def claude(server: SimulatedClaude) -> SimulatedClaude:
    server.configure(**Config().model_dump())
    server.reset()
    return server


@pytest.fixture
def sdk(claude: SimulatedClaude) -> Iterator[Anthropic]:
    with Anthropic(api_key="any", base_url=claude.url, max_retries=0, timeout=5) as client:
        yield client
