"""Workers that are told to leave."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.chaos.fleet import Fleet
from tests.chaos.system import System

Scale = Callable[[int, int], int]


def test_a_worker_that_is_told_to_leave_hands_its_jobs_over_at_once(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number = scale(50, 20)
    long_lease = {"CLAUDE_JOBS_LEASE_SECONDS": "60", "CLAUDE_JOBS_CONCURRENCY": str(number)}
    system.claude.configure(latency=60)
    (leaving,) = fleet.start(**long_lease)
    jobs = system.enqueue(number)
    system.running(number)
    system.claude.configure(latency=0.0)
    fleet.start(**long_lease)

    leaving.send_signal(signal.SIGTERM)
    more = system.enqueue(number)

    # Far sooner than a lease lasts: nobody waited for one.
    system.all_end(seconds=30)
    assert leaving.process is not None
    assert leaving.process.wait(timeout=15) == 0
    rows = {job["id"]: job for job in system.jobs()}
    assert [rows[job]["outcomes"] for job in jobs] == [["interrupted", "ok"]] * number
    assert [rows[job]["outcomes"] for job in more] == [["ok"]] * number
    assert {(row["attempt"], row["rescues"]) for row in rows.values()} == {(1, 0)}
    assert (
        system.count(
            "true",
        )
        == 2 * number
    )
    assert system.sql("SELECT count(*) FROM workers")[0]["count"] == 1
    system.assert_accounted_for()
    assert {e.outcome for e in system.claude.ledger()} == {"ok", "disconnected"}
