"""The warm gate when its leader is killed, an entry expires, or nobody waits."""

from __future__ import annotations

from sandbox.claude.client import SimulatedClaude
from tests.acceptance.caching import (
    billed,
    fan_out,
    patient_claude,
    prompts,
    reads,
    system,
    version,
    workers,
    writes,
)
from tests.chaos.system import System

__all__ = ["patient_claude", "prompts", "system", "version"]  # fixtures


def forgotten(system: System) -> bool:
    """Whether every reply is older than what workers of `shortlived` take for a lifetime."""
    (row,) = system.sql("SELECT max(finished_at) < now() - interval '3 s' AS old FROM usage")
    return bool(row["old"])


def test_without_the_gate_all_that_come_at_once_pay(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    with workers(system, 1, CLAUDE_JOBS_PROMPT_CACHE_WAIT_SECONDS="0"):
        fan_out(40, version)
        system.all_end()

    assert len(writes(billed(claude))) > 20


def test_the_next_leads_when_the_first_is_killed(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    claude.configure(latency=60.0)
    with workers(system) as fleet:
        fan_out(80, version)
        system.eventually(lambda: len(billed(claude)) == 1, "no call was made")
        (first,) = claude.ledger()
        claude.configure(latency=1.0)
        (row,) = system.sql(
            "SELECT worker FROM jobs WHERE user_id = %(tag)s AND finished_at IS NULL",
            tag=first.tag,
        )
        pid = int(row["worker"].rpartition(":")[2])
        leader = next(w for w in fleet.members if w.process and w.process.pid == pid)
        system.eventually(lambda: system.count("state = 'running'") > 40, system.unfinished)
        fleet.kill(leader)
        system.eventually(lambda: fleet.tend() and system.all_final(), system.unfinished)

    entries = billed(claude)
    assert len(entries) == 81
    # Its own, and its successor's; the rest waited for that one.
    assert (len(writes(entries)), len(reads(entries))) == (2, 79)


def test_an_entry_that_has_expired_is_written_once_more(
    claude: SimulatedClaude, system: System, version: str
) -> None:
    with workers(system, app="tests.acceptance.shortlived"):
        fan_out(40, version)
        system.all_end()
        system.eventually(lambda: forgotten(system), "the last reply stays young")
        claude.age_cache(300.0)
        fan_out(40, version)
        system.all_end()

    entries = billed(claude)
    assert len(entries) == 80
    assert (len(writes(entries)), len(reads(entries))) == (2, 78)
