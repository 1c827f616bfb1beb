"""The broker is wiped, restarted, and delivers messages twice."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from celery import Celery
from kombu import Connection

from tests.chaos.fleet import Fleet, is_ready
from tests.chaos.system import System

Scale = Callable[[int, int], int]


def test_a_wiped_broker_loses_no_job(system: System, fleet: Fleet, scale: Scale) -> None:
    number = scale(500, 60)
    system.claude.configure(latency=0.5)
    fleet.start(scale(2, 1), CLAUDE_JOBS_CONCURRENCY="10")
    system.enqueue(number + 10)
    system.eventually(
        lambda: system.count("state = 'dispatched'") > number * 0.6, "nothing was dispatched"
    )

    system.broker().flushall()

    system.all_end(seconds=60)
    system.assert_one_call_each()
    system.assert_accounted_for()


def test_a_message_that_is_delivered_again_while_its_job_runs_changes_nothing(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number = scale(30, 8)
    system.claude.configure(latency=scale(10, 5))
    fleet.start(scale(3, 2), app="tests.chaos.impatient", CLAUDE_JOBS_VISIBILITY_SECONDS="2")
    system.enqueue(number)

    system.all_end()

    app = Celery(broker=system.environment["REDIS_URL"])
    stats = app.control.inspect(timeout=3).stats().values()
    app.close()
    assert sum(worker["total"].get("summarize_text", 0) for worker in stats) > number
    system.assert_one_call_each()
    system.assert_accounted_for()


def test_a_worker_outlives_the_broker_idle_and_partly_busy(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    (worker,) = fleet.start(CLAUDE_JOBS_CONCURRENCY="6")
    before: list[UUID] = []
    for round_number in range(scale(10, 2)):
        busy = round_number % 2 == 1
        if busy:
            system.claude.configure(latency=3.0)
            before += system.enqueue(3)
            system.running(3)
            system.claude.configure(latency=0.0)
        system.stack.valkey.kill()
        if busy:
            system.eventually(
                lambda: system.claude.stats()["in_flight"] == 0, "the calls did not end"
            )
        system.stack.valkey.start()
        before += system.enqueue(1)
        system.all_end()
        assert worker.running, worker.log_tail()

    # All slots take jobs again, not only those that were free.
    system.claude.configure(latency=1.0)
    before += system.enqueue(6)
    system.running(6)
    system.all_end()
    system.assert_one_call_each(before)
    system.assert_accounted_for()


def test_without_the_patch_kombu_breaks_when_its_connection_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kombu.transport.redis import Channel

    from worker.transport import redis_patch

    with Connection("redis://127.0.0.1:1/3") as connection:
        channel = object.__new__(Channel)
        channel.connection = connection.transport
        channel.connection_errors = ()
        monkeypatch.setattr(Channel, "_connparams", original(Channel._connparams))
        known = channel._connparams()
        monkeypatch.setattr(connection.transport, "client", None)
        with pytest.raises(AttributeError, match="hostname"):
            channel._connparams()

        assert redis_patch.apply()
        monkeypatch.setattr(connection.transport, "client", connection)
        assert channel._connparams().keys() == known.keys()
        monkeypatch.setattr(connection.transport, "client", None)
        again = channel._connparams()
        assert (again["host"], again["port"], again["db"]) == ("127.0.0.1", 1, 3)


def original(function):  # type: ignore[no-untyped-def]
    """What the patch replaced, if it was applied in this process already."""
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return closure["original"].cell_contents if "original" in closure else function


def test_a_worker_without_the_patch_exits_and_its_supervisor_brings_it_back(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    if not scale(1, 0):
        pytest.skip("kombu's defect itself is shown by `make chaos`")
    (worker,) = fleet.start(app="tests.chaos.unpatched", CLAUDE_JOBS_CONCURRENCY="6")
    system.claude.configure(latency=15.0)
    system.enqueue(3)
    system.running(3)
    system.claude.configure(latency=0.0)

    system.stack.valkey.kill()
    system.eventually(lambda: "Unrecoverable error" in worker.log_text(), worker.log_tail)
    system.stack.valkey.start()

    # It goes on with its calls for as long as they take, and is gone then.
    system.eventually(
        lambda: fleet.tend() and len(fleet.exits) == 1 and system.all_final(), system.unfinished
    )
    assert fleet.exits != [0]
    system.eventually(lambda: is_ready(fleet.members[0]), "nobody took its place")
    system.assert_accounted_for()
