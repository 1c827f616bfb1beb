"""A system whose prompts are kept in Claude's cache, and what the ledger says of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.ledger import LedgerEntry
from sandbox.claude.models import MODELS
from sandbox.stack import Stack
from tasks import summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.settings import PROJECT, get_settings

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"

TEXT = "The quick brown fox jumps over the lazy dog, and the dog never minds."
#: Some 4,000 tokens, above every model's minimum.
RULES = "Keep to the rules that the reader knows from the last time. " * 270

#: A version a test: what workers have learned of one says nothing of another.
versions = count(1)
_VERSIONS = 12


def cached(text: str, number: int, rules: str, lifetime: str) -> str:
    head, system, tail = text.partition("system = '''\n")
    return f'cache = "{lifetime}"\n{head}{system}These are the rules {number}. {rules}\n{tail}'


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped prompts, and versions whose system prompts are cached."""
    folder = tmp_path_factory.mktemp("prompts") / "prompts"
    shutil.copytree(PROJECT / "prompts", folder)
    for number in range(1, _VERSIONS + 1):
        for name, rules, lifetime in (
            ("summarize_text", RULES, "5m"),
            ("extract_entities", "", "1h"),  # below the model's minimum
        ):
            shipped = (folder / name / "1.0.toml").read_text()
            version = folder / name / f"9.{number}.toml"
            version.write_text(cached(shipped, number, rules, lifetime))
    return folder


@pytest.fixture(scope="module")
def system(stack: Stack, fleet_environment: dict[str, str], prompts: Path) -> Iterator[System]:
    quick = {
        "CLAUDE_JOBS_PROMPTS_DIR": str(prompts),
        "CLAUDE_JOBS_CONCURRENCY": "60",
        "CLAUDE_JOBS_LEASE_SECONDS": "3",
        "CLAUDE_JOBS_REDISPATCH_SECONDS": "2",
        # On a busy machine a leader may need long to begin.
        "CLAUDE_JOBS_PROMPT_CACHE_WAIT_SECONDS": "60",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_JOBS_PROMPTS_DIR", str(prompts))
        read_prompts_anew()
        system = System(stack, fleet_environment | quick)
        yield system
        system.close()
    read_prompts_anew()


def read_prompts_anew() -> None:
    """Forget which prompts this process has read."""
    for cached_once in (get_settings, get_prompts, load_registry):
        cached_once.cache_clear()


@contextmanager
def workers(system: System, number: int = 2, app: str = "worker", **extra: str) -> Iterator[Fleet]:
    fleet = Fleet(system)
    try:
        fleet.start(number, app, **extra)
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(autouse=True)
def patient_claude(claude: SimulatedClaude) -> Iterator[None]:
    """A reply begins after a second, so that followers could overtake it."""
    claude.configure(latency=1.0, tokens_per_second=None)
    yield
    claude.configure(latency=0.0)


@pytest.fixture
def version() -> str:
    """A prompt version that no worker has met."""
    return f"9.{next(versions)}"


def fan_out(number: int, version: str, model: str = SONNET, **options: Any) -> list[Any]:
    """Jobs that share a prefix and nothing else; each user's id is the tag of its call."""
    return summarize_text.enqueue_many(
        [
            summarize_text.new_job(
                {"text": f"{TEXT} {n}", "max_words": 50, "audience": "everybody"},
                prompt_version=version,
                model=model,
                user_id=f"user-{n}",
                **options,
            )
            for n in range(number)
        ]
    )


def billed(claude: SimulatedClaude) -> list[LedgerEntry]:
    return [entry for entry in claude.ledger() if entry.billed]


def writes(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    return [e for e in entries if e.usage.cache_write_5m_tokens or e.usage.cache_write_1h_tokens]


def reads(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    return [entry for entry in entries if entry.usage.cache_read_tokens]


def share_of_uncached(entries: Sequence[LedgerEntry]) -> Decimal:
    """What the cached prefix has cost, of what it would have cost without a cache."""
    paid = uncached = Decimal(0)
    for entry in entries:
        usage, prices = entry.usage, MODELS[entry.model].prices
        paid += usage.cache_read_tokens * prices.cache_read
        paid += usage.cache_write_5m_tokens * prices.cache_write_5m
        paid += usage.cache_write_1h_tokens * prices.cache_write_1h
        cached = usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
        uncached += cached * prices.input
    return paid / uncached
