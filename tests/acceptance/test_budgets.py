"""Budgets with real workers: what is spent by Claude's ledger, what waits, and what lets go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sandbox.claude.client import SimulatedClaude
from sandbox.stack import Stack
from tasks import classify_ticket, summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.cli.app import app

pytestmark = pytest.mark.usefixtures("fleet")

SLOTS = 20
WORKERS = 2
LANE = {"CLAUDE_JOBS_BATCH_WAIT_MINUTES": "0", "CLAUDE_JOBS_BATCH_POLL_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def system(stack: Stack, fleet_environment: dict[str, str]) -> Iterator[System]:
    system = System(stack, fleet_environment)
    yield system
    system.close()


@pytest.fixture(scope="module")
def fleet(system: System) -> Iterator[Fleet]:
    workers = Fleet(system)
    workers.start(WORKERS, CLAUDE_JOBS_LEASE_SECONDS="2", **LANE)
    yield workers
    workers.stop()


@pytest.fixture(autouse=True)
def no_budget_left(system: System) -> Iterator[None]:
    yield
    system.sql("DELETE FROM budget_reservations")
    system.sql("DELETE FROM budgets")
    system.sql("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE state = 'queued'")


def budgets(*arguments: str) -> Result:
    done = CliRunner().invoke(app, ["budgets", *arguments])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done


def enqueue(count: int, **options: Any) -> list[Any]:
    """Jobs of nearly the same cost."""
    text = "The quick brown fox jumps over the lazy dog, and the dog never minds."
    jobs = [
        summarize_text.new_job(
            {"text": f"{text} {n:04}", "max_words": 50, "audience": "everybody"}, **options
        )
        for n in range(count)
    ]
    return summarize_text.enqueue_many(jobs)


def spent_today(system: System, only: str | None = None) -> Decimal:
    """What a new budget for all, or for all calls of one source, finds spent."""
    (row,) = system.sql(
        """
        SELECT coalesce(sum(coalesce(cost_usd, assumed_cost_usd)), 0) AS usd FROM usage
        WHERE created_at >= date_trunc('day', now(), 'UTC')
          AND source = coalesce(%(only)s::text, source)
        """,
        only=only,
    )
    usd: Decimal = row["usd"]
    return usd


def spent(claude: SimulatedClaude, since: int = 0) -> Decimal:
    return sum((entry.cost_usd for entry in claude.ledger(since)), Decimal(0))


@pytest.fixture(scope="module")
def cost(system: System, fleet: Fleet) -> Decimal:
    """What one of those calls costs at most; the workers have learned it, too."""
    for job in enqueue(60, user_id="first"):
        job.wait(timeout=60)
    (row,) = system.sql("SELECT max(cost_usd) AS most FROM usage")
    most: Decimal = row["most"]
    return most


@pytest.fixture
def allow(system: System, cost: Decimal) -> Callable[..., Decimal]:
    """Set a hard budget for so many more calls; returns its amount."""

    def set_(calls: int, whose: str = "all", *options: str, per: str = "day") -> Decimal:
        amount = spent_today(system) + cost * calls if whose == "all" else cost * calls
        budgets("set", whose, f"{amount:f}", "--per", per, "--hard", *options)
        return amount

    return set_


def is_held(system: System) -> bool:
    """A budget holds, something is queued, and all that was claimed has been put back."""
    return bool(
        system.sql("SELECT label FROM budget_status WHERE held")
        and system.count("state = 'queued'")
        and not system.count("state IN ('dispatched', 'running')")
    )


def stands_still(system: System) -> None:
    system.eventually(lambda: is_held(system), "the jobs are not held")
    nothing_is_reserved(system)


def nothing_is_reserved(system: System) -> None:
    system.eventually(
        lambda: (
            not system.sql("SELECT usage_id FROM budget_reservations LIMIT 1")
            and not system.sql("SELECT label FROM budget_status WHERE reserved_usd <> 0")
        ),
        "a reservation outlived its call",
        30,
    )


def all_succeed(system: System, jobs: list[Any], seconds: float = 90) -> None:
    ids = [job.id for job in jobs]
    system.eventually(
        lambda: system.count("id = ANY(%(ids)s) AND state = 'succeeded'", ids=ids) == len(ids),
        "not all were run",
        seconds,
    )


def waiting(system: System) -> Any:
    return system.sql("SELECT id FROM jobs WHERE state = 'queued' LIMIT 1")[0]["id"]


def alerts(system: System) -> list[tuple[str, str, int]]:
    rows = system.sql("SELECT kind, subject, count FROM alerts ORDER BY first_at, kind")
    return [(row["kind"], row["subject"], row["count"]) for row in rows]


def test_a_thousand_jobs_spend_what_the_budget_allows_and_the_rest_waits(
    system: System, claude: SimulatedClaude, cost: Decimal, allow: Callable[..., Decimal]
) -> None:
    claude.configure(latency=0.05)
    amount = allow(50)

    jobs = enqueue(1000)
    stands_still(system)

    done = system.count("state = 'succeeded' AND user_id IS NULL")
    assert len(claude.ledger()) == done
    assert cost * 40 <= spent(claude) <= cost * (50 + SLOTS * WORKERS)
    assert system.count("state = 'queued' AND attempt = 0 AND rescues = 0") == 1000 - done
    held = waiting(system)
    (why,) = json.loads(budgets("why", str(held), "--json").stdout)
    assert why["label"] == "all per day"
    assert "HELD BY BUDGET" in claude_jobs("status").stdout
    assert "held by" in claude_jobs("show", str(held)).stdout
    assert claude_jobs("health", "--stalled-after", "0").exit_code == 0
    system.eventually(lambda: bool(alerts(system)), "nobody was told", 10)
    assert {kind for kind, _, _ in alerts(system)} <= {"budget_exhausted", "budget_threshold"}

    # Held jobs cost nothing: not one is claimed any more.
    claimed = system.sql("SELECT max(started_at) AS last FROM jobs")
    system.sql("SELECT pg_sleep(2.5)")
    assert system.sql("SELECT max(started_at) AS last FROM jobs") == claimed

    budgets("raise", "all", f"{amount + cost * 1100:f}", "--per", "day")
    all_succeed(system, jobs)
    assert len(claude.ledger()) == 1000


@pytest.mark.parametrize("lane", [(), ("--lane", "batch")], ids=["both lanes", "the lane"])
def test_the_batch_lane_spends_what_the_budget_allows_and_the_rest_waits(
    system: System,
    claude: SimulatedClaude,
    cost: Decimal,
    lane: tuple[str, ...],
) -> None:
    claude.configure(batch_seconds=0.5)
    before = spent_today(system, only="batch" if lane else None)
    amount = before + cost * 25  # at half the price, for 50
    budgets("set", "all", f"{amount:f}", "--per", "day", "--hard", *lane)

    jobs = enqueue(200, lane="batch")
    lane_stands_still(system)

    assert cost * 10 < spent(claude) <= amount - before
    ids = [job.id for job in jobs]
    done = system.count("state = 'succeeded' AND id = ANY(%(ids)s)", ids=ids)
    assert len(claude.ledger()) == done > 20
    unsent = "state = 'queued' AND attempt = 0 AND rescues = 0 AND lane = 'batch'"
    assert system.count(f"{unsent} AND deadline_at IS NULL") == 200 - done
    assert not system.sql("SELECT id FROM usage WHERE outcome = 'in_flight'")
    held = waiting(system)
    (why,) = json.loads(budgets("why", str(held), "--json").stdout)
    assert why["label"].startswith("all per day")
    assert "held by" in claude_jobs("show", str(held)).stdout
    assert "HELD BY BUDGET" in claude_jobs("status").stdout

    # Nor is one of them claimed again and again.
    claimed = system.sql("SELECT max(started_at) AS last FROM jobs")
    system.sql("SELECT pg_sleep(3)")
    assert system.sql("SELECT max(started_at) AS last FROM jobs") == claimed

    budgets("raise", "all", f"{amount + cost * 300:f}", "--per", "day", *lane)
    all_succeed(system, jobs)
    assert len(claude.ledger()) == 200
    assert {entry.batch_id is not None for entry in claude.ledger()} == {True}
    system.eventually(lambda: lane_is_quiet(system), "a batch is left open")
    nothing_is_reserved(system)
    claude.configure(batch_seconds=0.0)


def lane_stands_still(system: System) -> None:
    """In this order: what is booked may let others go."""
    system.eventually(
        lambda: (
            lane_is_quiet(system)
            and not system.sql("SELECT usage_id FROM budget_reservations LIMIT 1")
            and is_held(system)
        ),
        "the jobs are not held",
        60,
    )


def lane_is_quiet(system: System) -> bool:
    return not system.sql("SELECT id FROM batches WHERE state IN ('intent', 'submitted', 'ended')")


def test_other_users_of_the_lane_do_not_wait_for_one_who_is_held(
    system: System, claude: SimulatedClaude, allow: Callable[..., Decimal]
) -> None:
    allow(2, "user:greedy")
    enqueue(30, lane="batch", user_id="greedy")
    others = enqueue(10, lane="batch", user_id="modest")
    all_succeed(system, others)
    lane_stands_still(system)
    assert system.count("state = 'queued' AND user_id = 'greedy' AND attempt = 0") > 20


def test_a_batch_that_is_refused_gives_its_reservations_back(
    system: System, claude: SimulatedClaude, allow: Callable[..., Decimal]
) -> None:
    allow(40)
    claude.faults({"on": "batch_create", "status": 403, "message": "no batches here"})
    jobs = enqueue(10, lane="batch")
    all_succeed(system, jobs)
    nothing_is_reserved(system)
    assert {entry.batch_id for entry in claude.ledger()} == {None}


def test_what_claude_did_not_carry_out_costs_a_budget_nothing(
    system: System, claude: SimulatedClaude, cost: Decimal, allow: Callable[..., Decimal]
) -> None:
    before = allow(40) - cost * 40
    claude.faults({"on": "batch_item", "result": "expired", "times": 10})
    all_succeed(system, enqueue(10, lane="batch"))
    nothing_is_reserved(system)
    (row,) = system.sql("SELECT spent_usd FROM budget_status")
    assert row["spent_usd"] == before + spent(claude)


def test_a_window_that_turns_lets_go(
    system: System, claude: SimulatedClaude, allow: Callable[..., Decimal]
) -> None:
    set_back(system)
    allow(5, "task:summarize_text", per="month")
    jobs = enqueue(8)
    stands_still(system)
    assert len(claude.ledger()) < 8

    set_back(system)

    all_succeed(system, jobs[:4])
    budgets("remove", "task:summarize_text", "--per", "month")
    all_succeed(system, jobs)


def set_back(system: System) -> None:
    """What was spent belongs to an earlier window now, as if the month had turned."""
    system.sql("DELETE FROM budget_windows WHERE ends_at < now()")
    system.sql("UPDATE usage SET created_at = created_at - interval '60 days'")
    system.sql("UPDATE budget_windows SET starts_at = starts_at - interval '60 days'")


def test_other_users_are_not_delayed_by_those_who_are_held(
    system: System, claude: SimulatedClaude, allow: Callable[..., Decimal]
) -> None:
    allow(2, "user:alice")
    alices = enqueue(150, user_id="alice")
    stands_still(system)

    others = enqueue(30, user_id="bob") + enqueue(30)
    all_succeed(system, others, 20)

    left = system.count("user_id = 'alice' AND state = 'queued' AND attempt = 0")
    assert 130 < left < 150
    budgets("remove", "user:alice", "--per", "day")
    all_succeed(system, alices)


def test_each_of_two_budgets_holds(system: System, allow: Callable[..., Decimal]) -> None:
    allow(1000, "all", per="month")
    allow(0, "task:summarize_text")
    (job,) = enqueue(1)
    other = classify()
    all_succeed(system, [other], 20)
    assert held_by(job) == ["task:summarize_text per day"]

    allow(0, "all", per="month")
    system.sql("SELECT pg_sleep(1.5)")
    assert held_by(job) == ["all per month", "task:summarize_text per day"]
    budgets("remove", "task:summarize_text", "--per", "day")
    system.sql("SELECT pg_sleep(1.5)")
    assert held_by(job) == ["all per month"]
    assert job.state == "queued"
    budgets("remove", "all", "--per", "month")
    all_succeed(system, [job], 20)


def test_a_budget_of_the_other_lane_holds_nothing_here(
    system: System, allow: Callable[..., Decimal]
) -> None:
    allow(0, "task:*", "--lane", "batch")
    (job,) = enqueue(1)
    all_succeed(system, [job], 20)
    allow(0, "model:claude-haiku-5-5", "--lane", "interactive")
    (held,) = enqueue(1)
    (sonnet,) = enqueue(1, model="claude-sonnet-5-5")
    all_succeed(system, [sonnet], 20)
    assert held_by(held) == ["model:claude-haiku-5-5 per day (interactive)"]


def test_a_repair_that_the_budget_has_no_room_for_fails_no_job(
    system: System, claude: SimulatedClaude, cost: Decimal, allow: Callable[..., Decimal]
) -> None:
    """Not even on its last attempt: it starts over when there is room."""
    claude.faults({"match": "fox", "content": "missing_field", "times": 1})
    amount = cost * Decimal("1.2")
    budgets("set", "user:eve", f"{amount:f}", "--per", "day", "--hard")

    (job,) = enqueue(1, user_id="eve", max_attempts=1)
    system.eventually(lambda: len(claude.ledger()) == 1, "no call was made", 20)
    stands_still(system)

    (row,) = system.sql("SELECT * FROM jobs WHERE id = %(id)s", id=job.id)
    assert (row["state"], row["attempt"]) == ("queued", 0)
    assert row["error"]["type"] == "budget_exhausted"
    assert "user:eve per day" in row["error"]["message"]
    calls = system.sql("SELECT outcome FROM usage WHERE job_id = %(id)s", id=job.id)
    assert calls == [{"outcome": "invalid_output"}]
    budgets("raise", "user:eve", "1", "--per", "day")
    all_succeed(system, [job], 20)


def test_a_worker_that_is_killed_takes_no_money_with_it(
    system: System, claude: SimulatedClaude, fleet: Fleet, cost: Decimal, allow: Callable[..., Any]
) -> None:
    """Its calls count as what was reserved for them, since Claude may have billed them."""
    claude.configure(latency=30)
    allow(2 * SLOTS, "user:mallory")
    jobs = enqueue(30, user_id="mallory")
    system.eventually(lambda: claude.stats()["in_flight"] == 30, "not all are in flight", 30)
    # Or the count that follows a new budget would find what the loop is to find.
    system.eventually(
        lambda: not system.sql("SELECT id FROM budgets WHERE counted_at IS NULL"), "not counted"
    )
    for member in fleet.members:
        fleet.kill(member)
    claude.configure(latency=0)
    fleet.tend()

    system.eventually(
        lambda: system.count("user_id = 'mallory' AND rescues = 1") == 30, "none was rescued"
    )
    nothing_is_reserved(system)

    (row,) = system.sql("SELECT spent_usd, calls FROM budget_status")
    lost = system.sql("""SELECT count(*) AS n, sum(assumed_cost_usd) AS usd FROM usage
                         WHERE user_id = 'mallory' AND outcome = 'lost'""")[0]
    assert lost["n"] == 30
    assert lost["usd"] > 0
    assert row["spent_usd"] == lost["usd"] + paid_for(system, "mallory")
    budgets("set", "user:mallory", "1", "--per", "day", "--hard")
    all_succeed(system, jobs)
    nothing_is_reserved(system)
    before = system.sql("SELECT spent_usd, calls FROM budget_status")
    budgets("recount")
    assert system.sql("SELECT spent_usd, calls FROM budget_status") == before


def paid_for(system: System, user: str) -> Decimal:
    (row,) = system.sql(
        "SELECT coalesce(sum(cost_usd), 0) AS usd FROM usage WHERE user_id = %(user)s", user=user
    )
    usd: Decimal = row["usd"]
    return usd


def test_a_budget_holds_through_a_redis_that_is_flushed(
    system: System, claude: SimulatedClaude, cost: Decimal, allow: Callable[..., Decimal]
) -> None:
    claude.configure(latency=0.2)
    allow(60)
    enqueue(400)
    for calls in (10, 30, 50):
        system.eventually(lambda calls=calls: len(claude.ledger()) >= calls, "nothing moves", 30)
        system.broker().flushdb()
    stands_still(system)

    assert cost * 50 <= spent(claude) <= cost * (60 + SLOTS * WORKERS)


def test_a_soft_budget_tells_once_and_holds_nothing(
    system: System, claude: SimulatedClaude, cost: Decimal
) -> None:
    system.sql("DELETE FROM alerts")
    options = ("--per", "day", "--soft", "--alert-at", "50", "--alert-at", "100")
    budgets("set", "user:sam", f"{cost * 20:f}", *options)
    all_succeed(system, enqueue(12, user_id="sam"))
    told = ("budget_threshold", "user:sam per day", 1)
    system.eventually(lambda: alerts(system) == [told], "nobody was told of the half", 15)

    all_succeed(system, enqueue(20, user_id="sam"))
    system.eventually(lambda: alerts(system) == [told, told], "nobody was told of the whole", 15)
    all_succeed(system, enqueue(20, user_id="sam"))
    # Whoever tells of budgets has looked since, when it tells of another one.
    budgets("set", "user:tim", f"{cost:f}", *options)
    all_succeed(system, enqueue(1, user_id="tim"))
    others = ("budget_threshold", "user:tim per day", 1)
    system.eventually(lambda: others in alerts(system), "nobody was told of the other one", 15)
    assert alerts(system).count(told) == 2


def test_calls_of_no_budget_ask_nothing(system: System, allow: Callable[..., Decimal]) -> None:
    allow(5, "user:somebody")
    all_succeed(system, enqueue(20))
    assert system.sql("SELECT usage_id FROM budget_reservations") == []
    assert [row["calls"] for row in system.sql("SELECT calls FROM budget_status")] == [0]


def classify() -> Any:
    return classify_ticket.enqueue(subject="s", body="b", categories=["billing", "other"])


def held_by(job: Any) -> list[str]:
    rows = json.loads(budgets("why", str(job.id), "--json").stdout)
    return sorted(row["label"] for row in rows)


def claude_jobs(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))
