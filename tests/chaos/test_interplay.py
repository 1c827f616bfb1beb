"""Sharing, budgets, the warm gate, releases and pauses, each met by the others.

However they meet: every job ends, an identical request is paid for once unless its maker was lost,
and nothing is left reserved, led or waited for.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sandbox.claude.faults import Fault
from tasks import summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.settings import PROJECT

COMMAND = str(Path(sys.executable).with_name("claude-jobs"))
#: Some 2,700 tokens, above the model's minimum.
RULES = "Keep to the rules that the reader knows from the last time. " * 270
ENDLESS = 600.0

_INSERT = """
INSERT INTO jobs (task, input, user_id, prompt_version, cache)
SELECT 'summarize_text', jsonb_build_object(
    'text', %(text)s::text, 'max_words', 50, 'audience', 'everybody'),
    %(user)s, %(version)s, %(cache)s
FROM generate_series(1, %(number)s)
RETURNING id
"""


@pytest.fixture
def system(new_system: Callable[..., Any], tmp_path: Path) -> Iterator[System]:
    """A system that shares requests, with a version 0.9 whose system prompt Claude caches."""
    folder = tmp_path / "prompts"
    shutil.copytree(PROJECT / "prompts", folder)
    shipped = (folder / "summarize_text" / "1.0.toml").read_text()
    head, system, tail = shipped.partition("system = '''\n")
    cached = f'cache = "5m"\n{head}{system}{RULES}\n{tail}'
    (folder / "summarize_text" / "0.9.toml").write_text(cached)
    with new_system(
        CLAUDE_JOBS_CACHE_SECONDS="600",
        CLAUDE_JOBS_PROMPTS_DIR=str(folder),
        CLAUDE_JOBS_PROMPT_CACHE_WAIT_SECONDS="60",
    ) as fresh:
        yield fresh


def enqueue(
    system: System,
    number: int = 1,
    text: str = "The fox.",
    *,
    user: str | None = None,
    version: str | None = None,
    cache: bool = True,
) -> list[Any]:
    """Insert jobs that are all alike."""
    rows = system.sql(_INSERT, number=number, text=text, user=user, version=version, cache=cache)
    return [row["id"] for row in rows]


def command(system: System, *arguments: str) -> str:
    """Run `claude-jobs …`; returns what it printed."""
    done = subprocess.run(
        [COMMAND, *arguments],
        check=False,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def waiting(system: System) -> int:
    return system.count("state = 'queued' AND waits_for IS NOT NULL")


def share(system: System, number: int) -> tuple[Any, list[Any]]:
    """One job that asks, without an end, and so many that wait for it; the next calls are quick."""
    system.claude.faults(Fault(delay=ENDLESS))
    (leader,) = enqueue(system)
    system.running(1)
    followers = enqueue(system, number)
    system.eventually(lambda: waiting(system) == number, system.unfinished)
    return leader, followers


def replace_worker(system: System, fleet: Fleet) -> None:
    """Kill the one that there is; its job is put back by the next, or is waited for no more."""
    fleet.kill(fleet.members[0])
    fleet.start(1)
    system.eventually(lambda: system.count("rescues > 0") > 0, "nothing was put back")


def assert_nothing_is_left(system: System) -> None:
    system.eventually(
        lambda: (
            not system.sql("SELECT 1 FROM budget_reservations")
            and not system.sql("SELECT 1 FROM budget_windows WHERE reserved_usd <> 0")
        ),
        "a reservation outlived its call",
    )
    assert system.sql("SELECT 1 FROM usage WHERE outcome = 'in_flight'") == []
    assert system.sql("SELECT 1 FROM jobs WHERE waits_for IS NOT NULL") == []


def assert_succeeded(system: System, jobs: list[Any]) -> None:
    """All of them, with one result and one `ok` each."""
    rows = system.sql(
        """SELECT state, (SELECT count(*) FROM results WHERE job_id = jobs.id) AS results,
                  (SELECT count(*) FROM usage WHERE job_id = jobs.id AND outcome = 'ok') AS ok
           FROM jobs WHERE id = ANY(%(jobs)s)""",
        jobs=jobs,
    )
    assert [tuple(row.values()) for row in rows] == [("succeeded", 1, 1)] * len(jobs)


def billed(system: System) -> int:
    return sum(entry.billed for entry in system.claude.ledger())


def test_a_request_that_a_budget_holds_is_made_once_when_it_is_raised(
    system: System, fleet: Fleet
) -> None:
    fleet.start(1)
    leader, followers = share(system, 50)
    command(system, "budgets", "set", "all", "0", "--per", "day", "--hard")
    replace_worker(system, fleet)

    # One goes ahead of a leader that does not come, and is held as well.
    system.eventually(lambda: waiting(system) == 49, system.unfinished)
    assert len(system.claude.ledger()) == 1
    command(system, "budgets", "set", "all", "100", "--per", "day", "--hard")

    system.all_end()
    assert_succeeded(system, [leader, *followers])
    assert billed(system) == 1
    assert_nothing_is_left(system)


def test_who_waits_has_the_result_though_its_user_s_budget_is_used_up(
    system: System, fleet: Fleet
) -> None:
    """It costs nothing."""
    fleet.start(2)
    system.claude.faults(Fault(delay=5.0))
    (leader,) = enqueue(system, user="rich")
    system.running(1)
    followers = enqueue(system, 20, user="poor")
    system.eventually(lambda: waiting(system) == 20, system.unfinished)
    command(system, "budgets", "set", "user:poor", "0", "--per", "day", "--hard")

    system.all_end()
    assert_succeeded(system, [leader, *followers])
    assert billed(system) == 1
    assert_nothing_is_left(system)


def test_a_leader_cancelled_at_the_warm_gate_is_replaced(system: System, fleet: Fleet) -> None:
    fleet.start(2)
    system.claude.faults(Fault(delay=ENDLESS))
    (warming,) = enqueue(system, text="Another.", version="0.9")
    system.running(1)
    (leader,) = enqueue(system, version="0.9")
    system.eventually(
        lambda: bool(system.sql("SELECT 1 FROM request_leaders WHERE job_id = %(id)s", id=leader)),
        "it does not lead",
    )
    followers = enqueue(system, 10, version="0.9")
    system.eventually(lambda: waiting(system) == 10, system.unfinished)
    assert system.claude.stats()["in_flight"] == 1

    command(system, "cancel", str(leader))
    system.eventually(
        lambda: system.count("id = %(id)s AND state = 'cancelled'", id=leader) == 1,
        "not cancelled at the gate",
    )
    command(system, "cancel", str(warming))

    system.all_end()
    assert_succeeded(system, followers)
    assert billed(system) == 1
    assert_nothing_is_left(system)


@pytest.mark.parametrize("there_and_back", [False, True])
def test_a_release_while_jobs_wait_is_followed_by_all(
    system: System, fleet: Fleet, there_and_back: bool
) -> None:
    fleet.start(1)
    release = ("prompts", "release", "summarize_text", "--force", "--reason", "a test")
    command(system, *release, "1.0")
    leader, followers = share(system, 20)
    command(system, *release, "0.9")
    if there_and_back:
        command(system, "prompts", "rollback", "summarize_text", "1.0")
    replace_worker(system, fleet)

    system.all_end()
    jobs = [leader, *followers]
    assert_succeeded(system, jobs)
    served = system.sql("SELECT DISTINCT prompt_version AS served FROM results")
    assert served == [{"served": "1.0" if there_and_back else "0.9"}]
    assert billed(system) == 1
    assert_nothing_is_left(system)


def test_a_pause_while_jobs_wait_leaves_one_request_to_make(system: System, fleet: Fleet) -> None:
    fleet.start(1)
    leader, followers = share(system, 20)
    command(system, "pause", "task:summarize_text")
    replace_worker(system, fleet)
    assert len(system.claude.ledger()) == 1
    command(system, "resume", "task:summarize_text")

    system.all_end()
    assert_succeeded(system, [leader, *followers])
    assert billed(system) == 1
    assert_nothing_is_left(system)


def test_twins_that_want_no_cache_each_ask(system: System, fleet: Fleet) -> None:
    fleet.start(2)
    system.claude.configure(latency=1.0)
    alone = enqueue(system, 10, cache=False)
    shared = enqueue(system, 10)

    system.all_end()
    assert_succeeded(system, [*alone, *shared])
    assert billed(system) == 11
    rows = system.sql("SELECT source FROM results WHERE job_id = ANY(%(ids)s)", ids=alone)
    assert {row["source"] for row in rows} == {"api"}
    assert_nothing_is_left(system)


def test_who_waits_for_a_job_that_was_deleted_goes_ahead(system: System, fleet: Fleet) -> None:
    fleet.start(2)
    leader, followers = share(system, 20)
    system.sql("DELETE FROM jobs WHERE id = %(id)s", id=leader)

    system.all_end()
    assert_succeeded(system, followers)
    assert billed(system) == 1


def test_a_worker_that_dies_with_all_of_it_leaves_nothing_behind(
    system: System, fleet: Fleet
) -> None:
    """A reservation, the lead of a request, and the lead of a prefix."""
    command(system, "budgets", "set", "all", "100", "--per", "day", "--hard")
    workers = fleet.start(1)
    system.claude.faults(Fault(delay=ENDLESS))
    (leader,) = enqueue(system, version="0.9")
    system.running(1)
    others = enqueue(system, text="Another.", version="0.9")
    followers = enqueue(system, 20, version="0.9")
    system.eventually(lambda: waiting(system) == 20, system.unfinished)
    assert system.sql("SELECT 1 FROM budget_reservations")
    assert system.sql("SELECT 1 FROM request_leaders")
    assert list(system.broker().scan_iter("claude-jobs:warm:*"))

    fleet.kill(workers[0])
    fleet.start(1)

    system.all_end()
    assert_succeeded(system, [leader, *others, *followers])
    assert billed(system) == 2
    assert_nothing_is_left(system)
    (counted,) = system.sql("SELECT spent_usd FROM budget_windows")
    (known,) = system.sql("SELECT sum(coalesce(cost_usd, assumed_cost_usd)) AS usd FROM usage")
    assert counted["spent_usd"] == known["usd"]


def test_followers_that_failed_share_again_when_they_are_requeued(
    system: System, fleet: Fleet
) -> None:
    fleet.start(2)
    system.claude.faults(Fault(status=400, delay=3.0))
    jobs = enqueue(system, 20)
    system.all_end()
    assert system.summary() == {"failed": 20}
    assert len(system.claude.ledger()) == 1

    system.claude.configure(latency=1.0)
    command(system, "requeue", "--task", "summarize_text", "--yes")

    system.all_end()
    assert_succeeded(system, jobs)
    assert billed(system) == 1
    assert_nothing_is_left(system)


@pytest.mark.usefixtures("producing")
def test_a_key_that_waits_is_the_job_that_waits(system: System, fleet: Fleet) -> None:
    fleet.start(1)
    fields: dict[str, Any] = {"text": "The fox.", "max_words": 50, "audience": "everybody"}
    system.claude.faults(Fault(delay=4.0))
    summarize_text.enqueue(**fields)
    system.running(1)
    first = summarize_text.enqueue(**fields, idempotency_key="the same")
    system.eventually(lambda: waiting(system) == 1, system.unfinished)

    again = summarize_text.enqueue(**fields, idempotency_key="the same")

    assert again.id == first.id
    system.all_end()
    assert_succeeded(system, [first.id])
    assert system.count("true") == 2
    assert billed(system) == 1


def test_a_worker_that_is_stopped_hands_on_who_waits(system: System, fleet: Fleet) -> None:
    workers = fleet.start(1)
    leader, followers = share(system, 20)

    workers[0].send_signal(signal.SIGTERM)
    system.eventually(lambda: not workers[0].running, "it does not stop")
    fleet.start(1)

    system.all_end()
    assert_succeeded(system, [leader, *followers])
    assert billed(system) == 1
    assert_nothing_is_left(system)


def test_all_books_agree_to_the_last_cent(system: System, fleet: Fleet) -> None:
    """Claude's ledger, the usage table, its views, the review, `usage`, and the budget's sum."""
    quick = {"CLAUDE_JOBS_BATCH_WAIT_MINUTES": "0", "CLAUDE_JOBS_BATCH_POLL_SECONDS": "0.2"}
    command(system, "budgets", "set", "all", "100", "--per", "month", "--lane", "interactive")
    fleet.start(2, **quick)
    system.claude.configure(latency=0.5, batch_seconds=0.3)
    system.claude.faults(
        Fault(content="missing_field", times=4),
        Fault(status=500, times=2),
        Fault(content="wrong_type", on="batch_item", times=3),
    )
    for n in range(10):
        enqueue(system, 1, f"Cached {n}.", user=f"user-{n}", version="0.9")
        enqueue(system, 3, f"Shared {n}.", user=f"user-{n}")
    enqueue(system, 5, "Alone.", cache=False)
    system.sql("""
        INSERT INTO jobs (task, lane, input)
        SELECT 'summarize_text', 'batch', jsonb_build_object(
            'text', 'Batched ' || n, 'max_words', 50, 'audience', 'everybody')
        FROM generate_series(1, 10) AS n""")
    system.all_end()
    enqueue(system, 5, "Shared 1.", user="late")
    system.all_end()
    assert_nothing_is_left(system)
    system.eventually(
        lambda: not system.sql("SELECT 1 FROM batches WHERE state <> 'ingested'"), "not all is in"
    )

    (spent,) = system.sql("""
        SELECT sum(cost_usd) AS usd, sum(full_cost_usd) AS full, count(*) AS rows,
               count(*) FILTER (WHERE source <> 'cache') AS calls,
               sum(full_cost_usd) FILTER (WHERE source = 'cache') AS spared,
               count(DISTINCT job_id) AS jobs
        FROM usage""")
    assert spent["usd"] == sum(entry.cost_usd for entry in system.claude.ledger())
    (budget,) = system.sql("SELECT spent_usd, calls FROM budget_windows")
    (called,) = system.sql(
        "SELECT sum(cost_usd) AS spent_usd, count(*) AS calls FROM usage WHERE source = 'api'"
    )
    assert budget == called
    for view in ("usage_daily", "usage_by_prompt", "usage_by_user", "usage_per_job"):
        (sums,) = system.sql(f"""
            SELECT sum(cost_usd) AS usd, sum(full_cost_usd) AS full, sum(calls) AS calls,
                   sum(jobs) AS jobs,
                   sum(saved_by_prompt_cache_usd + saved_by_batch_usd + saved_by_cache_usd
                       + saved_by_coalescing_usd) AS saved
            FROM {view}""")
        assert sums == {
            "usd": spent["usd"],
            "full": spent["full"],
            "calls": spent["calls"],
            "jobs": spent["jobs"],
            "saved": spent["full"] - spent["usd"],
        }, view
    for by in ("task", "prompt", "model", "user", "day", "outcome"):
        rows = json.loads(command(system, "usage", "--by", by, "--json"))
        assert sum(Decimal(str(row["cost_usd"])) for row in rows) == spent["usd"], by
        assert sum(Decimal(str(row["spared_usd"])) for row in rows) == spent["spared"], by
        assert sum(row["calls"] for row in rows) == spent["calls"], by
    # A day that is over: then it may be reviewed.
    system.sql("UPDATE usage SET created_at = created_at - interval '1 day'")
    (newest,) = system.sql(
        "SELECT max((created_at AT TIME ZONE 'UTC')::date)::text AS day FROM usage"
    )
    review = json.loads(command(system, "report", "--until", newest["day"], "--json"))
    assert Decimal(review["now"]["cost_usd"]) == spent["usd"]
    assert Decimal(review["now"]["full_cost_usd"]) == spent["full"]
    for lines in review["by"].values():
        assert sum(Decimal(line["now"]["cost_usd"]) for line in lines) == spent["usd"]
        assert sum(line["now"]["jobs"] for line in lines) == spent["jobs"]
    assert sum(Decimal(day["cost_usd"]) for day in review["days"]) == spent["usd"]
    used = {name: review["now"][name] for name in ("cache_hits", "coalesced_jobs", "batch_calls")}
    assert all(used.values()), used
    assert review["now"]["cache_read_tokens"]
