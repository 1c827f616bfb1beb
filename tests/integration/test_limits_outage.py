"""The limiter while Redis is flushed, spoiled, frozen or gone."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sandbox.valkey import Valkey
from tests.integration.limits_world import (
    CLASS,
    LIMITS,
    MODEL,
    SMALL,
    World,
    admit,
    admitted,
    headers,
    held,
    sent,
    settle,
    world,
)
from worker.limits.types import Buckets, Cost
from worker.limits.window import SLOW_START
from worker.redis_script import Script

__all__ = ["world"]  # the fixture

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    folder = Path(tempfile.mkdtemp(prefix="claude-jobs-"))
    folder.chmod(0o711)
    try:
        with Valkey(folder / "data", durable=False) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fragile(valkey: Valkey) -> Iterator[World]:
    """A world whose Valkey may be killed."""
    if not valkey.running:
        valkey.start()
    fresh = World(valkey.url)
    yield fresh
    fresh.close()


def test_a_flushed_redis_is_rebuilt_from_what_a_process_remembers(world: World) -> None:
    limiter = world.told()
    sent(limiter, Cost(560_000, 10))
    waiting = held(limiter, Cost(60_000, 10))
    world.redis.flushdb()

    assert world.state(limiter).limits == Buckets(*LIMITS)
    assert 250 < admitted(limiter) <= 300  # half of what remained a moment ago
    assert limiter.confirm(waiting) > 0  # it queues anew
    limiter.release(waiting)


def test_a_memory_that_is_old_starts_low(world: World) -> None:
    limiter = world.told()
    world.now += 60
    world.redis.flushdb()

    assert admitted(limiter) == 0
    world.now += 6
    assert admitted(limiter) == pytest.approx(60, abs=1)


@pytest.mark.parametrize("nonsense", ["", "nonsense", b"\xc1", b"\x93\x01\x02\x03", b"\x80"])
def test_a_state_that_cannot_be_read_is_rebuilt(world: World, nonsense: str | bytes) -> None:
    limiter = world.told()
    world.redis.set(world.key, nonsense)

    assert world.state(limiter).limits == Buckets(*LIMITS)
    assert sent(limiter)


def test_scripts_that_redis_forgot_are_sent_again(world: World) -> None:
    limiter = world.told()
    world.redis.script_flush()

    assert sent(limiter)
    assert world.state(limiter).shared


def test_a_key_that_makes_the_script_fail_does_not_reach_the_caller(
    world: World,
) -> None:
    limiter = world.told()
    world.redis.delete(world.key)
    world.redis.lpush(world.key, "nonsense")
    world.now += 1

    with capture_logs() as logs:
        waiting = held(limiter)
        limiter.confirm(waiting)
        limiter.release(waiting)
        settle(limiter, held(limiter), headers())
        limiter.rejected(held(limiter), {"retry-after": "1"}, "rate_limited")
        assert limiter.capacity([MODEL], 60)[CLASS] is not None
        assert limiter.snapshot()
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_redis_goes_and_comes_back(fragile: World, valkey: Valkey, eventually: Eventually) -> None:
    limiter = fragile.told()
    running, _ = sent(limiter), sent(limiter, Cost(560_000, 10))
    waiting = held(limiter, Cost(60_000, 10))
    with capture_logs() as logs:
        valkey.kill()
        assert admitted(limiter) == 0
        fragile.now += 10
        assert admitted(limiter) == pytest.approx(50, abs=1)  # one process of two
        assert not fragile.state(limiter).shared
        assert limiter.confirm(waiting) > 0
        settle(limiter, running, headers())
        limiter.release(waiting)
        assert len(logs) == 1
        assert logs[0]["event"].startswith("Redis lost")

        valkey.start()
        eventually(lambda: fragile.state(limiter).shared, "it did not come back", seconds=10)
        assert len(logs) == 2
        assert logs[1]["event"].startswith("Redis is back")
    assert fragile.state(limiter).limits == Buckets(*LIMITS)


def test_a_redis_that_remembers_a_full_bucket_is_not_believed_after_an_outage(
    fragile: World, valkey: Valkey, eventually: Eventually
) -> None:
    limiter = fragile.told()
    limiter._shared._note_loss(ConnectionError("cut off"))
    fragile.now += 60
    eventually(lambda: fragile.state(limiter).shared, "it did not come back", seconds=10)

    assert admitted(limiter) == 0


def test_nobody_knows_of_limits_and_redis_is_gone(fragile: World, valkey: Valkey) -> None:
    valkey.kill()
    limiter = fragile.limiter()

    assert sent(limiter)
    assert limiter.capacity([MODEL], 10) == {CLASS: 2 * (SLOW_START - 1)}


def test_what_was_closed_stays_closed_without_redis(fragile: World, valkey: Valkey) -> None:
    limiter, other = fragile.told(), fragile.limiter()
    limiter.rejected(sent(limiter), {"retry-after": "30"}, "rate_limited")
    assert admit(other).wait >= 30
    valkey.kill()

    for process in (limiter, other):
        assert admit(process).wait >= 30
    fragile.now += 29
    for process in (limiter, other):
        assert admit(process).reservation is None


def test_what_was_closed_stays_closed_in_a_flushed_redis(world: World) -> None:
    limiter = world.told()
    limiter.rejected(sent(limiter), {"retry-after": "30"}, "rate_limited")
    world.redis.flushdb()
    held(limiter)

    assert world.state(world.limiter()).closed_for == 30


def test_no_decision_hangs_on_a_frozen_redis(fragile: World, valkey: Valkey) -> None:
    limiter = fragile.told()
    script = limiter._shared._script
    asked: list[Any] = []

    def run(calls: Any) -> Any:
        asked.append(calls)
        return Script.run(script, calls)

    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worker.limits.shared._RETRY_PAUSE", 1000.0)
            patch.setattr(script, "run", run)
            for _ in range(20):
                admit(limiter, SMALL, max_wait=5)
        assert len(asked) == 1  # all others decide without it
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
