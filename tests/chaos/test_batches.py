"""The batch lane under attack.

Every job ends exactly once with one result; what Claude billed for a batch is what the usage table
says, row by row; and nothing is submitted twice unless the first batch is known not to exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import psutil
import pytest

from tests.chaos.conftest import LONG
from tests.chaos.fleet import Fleet
from tests.chaos.monkey import Monkey
from tests.chaos.system import System

Scale = Callable[[int, int], int]

LANE = {
    "CLAUDE_JOBS_BATCH_WAIT_MINUTES": "0",
    "CLAUDE_JOBS_BATCH_POLL_SECONDS": "0.2",
    "CLAUDE_JOBS_BATCH_CONFIRM_SECONDS": "3",
    "CLAUDE_JOBS_BATCH_MAX_REQUESTS": "40",
}

#: See `tests.chaos.mortal`. The short version dies where something could be lost or doubled.
POINTS = ("while gathering", "with the right to send", "before the record", "during the ingest",
          "in a follow-up", "while reconciling")  # fmt: skip
if LONG:
    POINTS += ("before the intent", "with the intent uncommitted", "before the submission",
               "before the results", "before a follow-up", "after the ingest")  # fmt: skip

_INSERT = """
INSERT INTO jobs (id, user_id, task, lane, input)
SELECT id, id::text, 'summarize_text', 'batch', jsonb_build_object(
    'text', %(text)s || ' The fox and the dog of ' || id, 'max_words', 50, 'audience', 'all')
FROM unnest(%(ids)s::uuid[]) AS id
"""

_INSERT_ALIKE = """
INSERT INTO jobs (id, user_id, task, lane, input)
SELECT id, id::text, 'summarize_text', 'batch', jsonb_build_object(
    'text', 'The fox and the dog of ' || place %% %(requests)s, 'max_words', 50, 'audience', 'all')
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS new (id, place)
"""


@pytest.fixture
def system(new_system: Callable[..., object]) -> Iterator[System]:
    with new_system(**LANE) as fresh:  # type: ignore[attr-defined]
        fresh.claude.configure(batch_seconds=0.3)
        yield fresh
        fresh.claude.configure(batch_seconds=0.0)


def enqueue(system: System, number: int, text: str = "") -> list[UUID]:
    ids = [uuid4() for _ in range(number)]
    system.sql(_INSERT, ids=ids, text=text)
    return ids


def all_settled(system: System) -> bool:
    left = system.sql("SELECT id FROM batches WHERE state IN ('intent', 'submitted', 'ended')")
    return system.all_final() and not left


def unsettled(system: System) -> str:
    batches = system.sql("SELECT *, now() FROM batches ORDER BY created_at DESC LIMIT 5")
    return "\n".join([system.unfinished(), *map(str, batches)])


def assert_books_agree(system: System) -> None:
    """Row by row, what batches cost; and nothing was paid for in two batches."""
    system.assert_accounted_for()
    ledger = [entry for entry in system.claude.ledger() if entry.batch_id]
    billed = {entry.custom_id: entry for entry in ledger if entry.billed}
    rows = system.sql("SELECT * FROM usage WHERE source = 'batch'")
    complete = {f"{row['batch_id'].hex}-{row['id']}": row for row in rows if row["complete"]}
    assert billed.keys() == complete.keys()
    for name, row in complete.items():
        assert row["cost_usd"] == billed[name].cost_usd
        assert row["cost_usd"] * 2 == row["full_cost_usd"]
    recorded = sum((row["cost_usd"] for row in complete.values()), Decimal(0))
    assert recorded == sum((entry.cost_usd for entry in billed.values()), Decimal(0))
    # A job has been in one batch, unless that batch came back without a reply for it.
    times = Counter(entry.tag for entry in billed.values())
    assert not {tag: number for tag, number in times.items() if number > 1}
    known = {row["anthropic_id"] for row in system.sql("SELECT anthropic_id FROM batches")}
    assert {batch["id"] for batch in system.claude.batches()} <= known
    batches = system.sql("SELECT * FROM batches WHERE state = 'ingested'")
    assert sum(row["cost_usd"] or 0 for row in batches) == recorded


@pytest.mark.parametrize("point", POINTS)
def test_workers_that_are_killed_on_the_way_neither_lose_nor_double_anything(
    system: System, fleet: Fleet, scale: Scale, tmp_path: Path, point: str
) -> None:
    deaths = scale(6, 1)
    system.claude.faults({"on": "batch_item", "content": "wrong_type", "rate": 0.2, "times": None})
    if point == "while reconciling":
        system.claude.faults({"on": "batch_create", "cut": True})
    mortal = {"DIE_AT": point, "DIE_TIMES": str(deaths), "DIE_FOLDER": str(tmp_path)}
    fleet.start(scale(3, 1), app="tests.chaos.mortal", **mortal)
    number = scale(200, 40)
    enqueue(system, number)
    system.eventually(
        lambda: fleet.tend() and all_settled(system),
        lambda: unsettled(system),
        seconds=scale(300, 90),
    )
    assert len(list(tmp_path.iterdir())) == deaths
    assert len(fleet.exits) == deaths
    assert system.summary() == {"succeeded": number}
    assert_books_agree(system)


@pytest.mark.parametrize(
    "point",
    [
        "while gathering",
        "with the right to send",
        "before the record",
        "during the ingest",
        "in a follow-up",
        "after the ingest",
    ],
)
def test_jobs_that_share_requests_outlive_those_who_lead(
    new_system: Callable[..., object], scale: Scale, tmp_path: Path, point: str
) -> None:
    """Each request is answered, once if nobody dies over it, and every follower gets its answer."""
    deaths, requests, each = scale(4, 2), scale(120, 90), 3
    with new_system(**LANE, CLAUDE_JOBS_CACHE_SECONDS="600") as system:  # type: ignore[attr-defined]
        system.claude.configure(batch_seconds=0.3)
        system.claude.faults(
            {"on": "batch_item", "content": "wrong_type", "rate": 0.2, "times": None},
            {"on": "batch_item", "status": 500, "rate": 0.1, "times": None},
        )
        mortal = {"DIE_AT": point, "DIE_TIMES": str(deaths), "DIE_FOLDER": str(tmp_path)}
        ids = [uuid4() for _ in range(requests * each)]
        system.sql(_INSERT_ALIKE, ids=ids, requests=requests)
        with ExitStack() as stack:
            fleet = Fleet(system)
            stack.callback(fleet.stop)
            fleet.start(scale(3, 1), app="tests.chaos.mortal", **mortal)
            system.eventually(
                lambda: fleet.tend() and all_settled(system),
                lambda: unsettled(system),
                seconds=scale(300, 120),
            )
        assert len(list(tmp_path.iterdir())) == deaths
        assert system.summary() == {"succeeded": requests * each}
        calls = system.sql("SELECT * FROM usage WHERE outcome = 'ok'")
        assert len(calls) == requests * each
        paid = [row for row in calls if row["source"] != "cache"]
        # One that dies takes at most a batch's requests with it.
        assert requests <= len(paid) <= requests * (1 + deaths)
        answers = system.sql(
            """SELECT input ->> 'text' FROM jobs JOIN results ON results.job_id = jobs.id
               GROUP BY 1 HAVING count(DISTINCT output) > 1"""
        )
        assert len(answers) <= len(paid) - requests
        assert_books_agree(system)
        system.claude.configure(batch_seconds=0.0)


def test_everything_at_once(system: System, fleet: Fleet, scale: Scale, rng: Random) -> None:
    """Kills, restarts of Postgres and Valkey, flushes of Redis, and an API that misbehaves."""
    if not scale(1, 0):
        pytest.skip("a minute of everything: `make chaos` has the time")
    system.claude.faults(
        {"on": "batch_create", "cut": True, "rate": 0.15, "times": None},
        {"on": "batch_create", "status": 500, "billed": True, "rate": 0.1, "times": None},
        {"on": "batch_create", "status": 529, "times": 1},
        {"on": "batch_get", "status": 404, "rate": 0.1, "times": None},
        {"on": "batch_get", "status": 500, "times": 2},
        {"on": "batch_results", "cut": True, "at": {"bytes": 9000}, "times": 9},
        {"on": "batch_item", "content": "wrong_type", "rate": 0.05, "times": None},
        {"on": "batch_item", "status": 500, "rate": 0.03, "times": None},
        {"on": "batch_item", "result": "expired", "rate": 0.03, "times": None},
    )
    fleet.start(2)
    restarts, kills = (4.0, 8.0), (2.0, 6.0)
    monkey = Monkey(rng, fleet, kills=kills, restarts=restarts)
    number = 2000
    enqueue(system, number)

    def act() -> bool:
        if rng.random() < 0.05 and "Valkey" not in monkey.restarted[-1:]:
            system.broker().flushdb()
        return monkey.act()

    system.eventually(
        lambda: act() and bool(monkey.killed) and system.count("finished_at IS NULL") <= number / 5,
        lambda: unsettled(system),
        seconds=900,
    )
    system.claude.clear_faults()
    system.eventually(
        lambda: fleet.tend() and all_settled(system), lambda: unsettled(system), seconds=120
    )
    assert monkey.killed
    assert system.summary() == {"succeeded": number}
    assert_books_agree(system)


def test_ten_thousand_jobs_in_one_go(
    system: System, fleet: Fleet, scale: Scale, record_property: Callable[[str, object], None]
) -> None:
    """The memory of the worker that gathers and ingests all of them stays within bounds."""
    (worker,) = fleet.start(CLAUDE_JOBS_BATCH_MAX_REQUESTS="10000")
    process = psutil.Process(worker.pid)
    before = peak = process.memory_info().rss
    number = scale(10_000, 2_000)
    enqueue(system, number, "lorem ipsum " * 100)

    def done() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return all_settled(system)

    system.eventually(done, lambda: unsettled(system), seconds=240)
    sizes = [row["requests"] for row in system.sql("SELECT requests FROM batches")]
    grown = (peak - before) / 1e6
    record_property("noted", f"{number:,} jobs in batches of {sizes}: {grown:.0f} MB more")
    assert sum(sizes) == number
    assert system.summary() == {"succeeded": number}
    assert_books_agree(system)
    assert grown < 250
