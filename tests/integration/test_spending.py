"""The statements behind budgets: reserve, book, count – in order, at once, and after a crash."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text

from tests.integration.steps import TERMS, enqueue, new_job
from tests.integration.steps import dispatch as dispatch_now
from worker.storage import budgets, dispatch, spending
from worker.storage.budgets import Which
from worker.storage.claim import FirstCall, claim_job, open_call
from worker.storage.engine import transaction
from worker.storage.enqueue import insert_jobs
from worker.storage.spending import Purchase, Refusal

CENT = Decimal("0.01")
ALL = Which("all", "", "day")


def put(engine: Engine, which: Which = ALL, amount: str = "1", **options: Any) -> None:
    wanted = {"hard": True, "alert_at": [80, 100], "by": "test"} | options
    with transaction(engine) as connection:
        budgets.put(connection, which, Decimal(amount), **wanted)


def call(engine: Engine, model: str = "m", **job: Any) -> int:
    """A call in flight: its usage row."""
    (job_id,) = enqueue(engine, new_job(**job))
    with transaction(engine) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'dispatched' WHERE id = :id"), {"id": job_id}
        )
        claimed = claim_job(connection, job_id, TERMS)
        assert claimed is not None
        return open_call(connection, claimed, FirstCall(model, "p", "1", "0"))


def purchase(usage_id: int, usd: str | Decimal = CENT, **of: Any) -> Purchase:
    wanted = {"task": "t", "user_id": None, "model": "m", "lane": "interactive"} | of
    return Purchase(usage_id, usd=Decimal(usd), **wanted)


def reserve(
    engine: Engine, *purchases: Purchase, ended: tuple[int, ...] = ()
) -> dict[int, Refusal]:
    with transaction(engine) as connection:
        return spending.reserve(connection, purchases, ended)


def end(engine: Engine, usage_id: int, cost: str | None = "0.01", outcome: str = "ok") -> None:
    with transaction(engine) as connection:
        connection.execute(
            text("""UPDATE usage SET outcome = :outcome, cost_usd = :cost, finished_at = now(),
                           complete = :complete WHERE id = :id"""),
            {"id": usage_id, "cost": cost, "outcome": outcome, "complete": outcome == "ok"},
        )


def book(engine: Engine, *ended: int) -> int:
    with transaction(engine) as connection:
        return spending.book(connection, ended or None)


def recount(engine: Engine) -> None:
    with transaction(engine) as connection:
        budgets.recount(connection)


def status(engine: Engine, **wanted: Any) -> list[Any]:
    with transaction(engine) as connection:
        return list(budgets.status(connection, limit=1000, **wanted))


def sums(engine: Engine) -> list[tuple[str, float, float, int]]:
    return [
        (row["label"], float(row["spent_usd"]), float(row["reserved_usd"]), row["calls"])
        for row in status(engine)
    ]


def held(engine: Engine) -> list[str]:
    return [row["label"] for row in status(engine, held=True)]


def execute(engine: Engine, sql: str, **values: Any) -> int:
    with transaction(engine) as connection:
        return connection.execute(text(sql), values).rowcount


def test_what_is_reserved_becomes_what_was_spent(engine: Engine) -> None:
    put(engine)
    usage_id = call(engine)

    assert reserve(engine, purchase(usage_id, "0.40")) == {}
    assert sums(engine) == [("all per day", 0, 0.4, 1)]
    end(engine, usage_id, "0.25")
    assert book(engine, usage_id) == 1

    assert sums(engine) == [("all per day", 0.25, 0, 1)]
    assert book(engine) == 0


def test_a_call_that_does_not_fit_takes_nothing_and_says_what_holds_it(engine: Engine) -> None:
    put(engine)
    ids = [call(engine) for _ in range(3)]
    assert reserve(engine, purchase(ids[0], "0.98")) == {}

    refused = reserve(engine, purchase(ids[1], "0.03"), purchase(ids[2], "0.02"))

    assert set(refused) == {ids[1]}
    assert refused[ids[1]].budget == "all per day"
    assert refused[ids[1]].holds
    assert 0 < refused[ids[1]].seconds <= 86400
    assert sums(engine) == [("all per day", 0, 1.0, 2)]
    assert held(engine) == ["all per day"]


def test_asking_again_for_the_same_call_changes_nothing(engine: Engine) -> None:
    """The answer to the first may have been lost on its way."""
    put(engine)
    usage_id = call(engine)
    for _ in range(3):
        assert reserve(engine, purchase(usage_id, "0.60")) == {}
    assert sums(engine) == [("all per day", 0, 0.6, 1)]


def test_a_soft_budget_refuses_nothing(engine: Engine) -> None:
    put(engine, hard=False)
    ids = [call(engine) for _ in range(3)]
    assert reserve(engine, *(purchase(each, "0.60") for each in ids)) == {}
    assert [row["percent"] for row in status(engine)] == [180]
    assert held(engine) == []


@pytest.mark.parametrize(
    ("which", "of", "concerned"),
    [
        (ALL, {}, True),
        (Which("task", "t", "day"), {}, True),
        (Which("task", "other", "day"), {}, False),
        (Which("task", "*", "month"), {}, True),
        (Which("user", "alice", "day"), {"user_id": "alice"}, True),
        (Which("user", "alice", "day"), {"user_id": "bob"}, False),
        (Which("user", "alice", "day"), {}, False),
        (Which("user", "*", "day"), {"user_id": "bob"}, True),
        (Which("user", "*", "day"), {}, False),
        (Which("model", "claude-x", "day"), {"model": "claude-x"}, True),
        (Which("model", "claude-x", "day"), {"model": "claude-x-20260901"}, True),
        (Which("model", "claude-x", "day"), {"model": "claude-x-y"}, False),
        (Which("all", "", "day", "batch"), {}, False),
        (Which("all", "", "day", "batch"), {"lane": "batch"}, True),
        (Which("all", "", "day", "interactive"), {"lane": "batch"}, False),
        (Which("all", "", "day"), {"lane": "batch"}, True),
    ],
)
def test_whose_calls_a_budget_concerns(
    engine: Engine, which: Which, of: dict[str, str], concerned: bool
) -> None:
    put(engine, which, "0")
    usage_id = call(engine, user_id=of.get("user_id"))
    assert set(reserve(engine, purchase(usage_id, **of))) == ({usage_id} if concerned else set())


def test_each_user_has_a_budget_of_their_own(engine: Engine) -> None:
    put(engine, Which("user", "*", "day"))
    alice, bob = call(engine, user_id="alice"), call(engine, user_id="bob")
    again = call(engine, user_id="alice")
    assert reserve(engine, purchase(alice, "0.99", user_id="alice")) == {}

    refused = reserve(
        engine, purchase(again, "0.02", user_id="alice"), purchase(bob, "0.99", user_id="bob")
    )

    assert {each.budget for each in refused.values()} == {"user:alice per day"}
    assert set(refused) == {again}


def test_two_budgets_both_have_to_have_room(engine: Engine) -> None:
    put(engine, ALL, "10")
    put(engine, Which("task", "t", "month"), "1")
    first, second, other = call(engine), call(engine), call(engine, task="u")
    assert reserve(engine, purchase(first, "0.99")) == {}

    refused = reserve(engine, purchase(second, "0.50"), purchase(other, "0.50", task="u"))

    assert [each.budget for each in refused.values()] == ["task:t per month"]
    assert sums(engine) == [("all per day", 0, 1.49, 2), ("task:t per month", 0, 0.99, 1)]


def test_what_can_never_fit_goes_first_or_waits_and_holds_nobody(engine: Engine) -> None:
    put(engine)
    giant, small, another = call(engine), call(engine), call(engine)
    assert reserve(engine, purchase(small, "0.10")) == {}

    (refused,) = reserve(engine, purchase(giant, "5")).values()
    assert not refused.holds
    assert held(engine) == []
    assert reserve(engine, purchase(another, "0.10")) == {}

    # The first of the next window.
    execute(engine, "UPDATE budget_windows SET starts_at = starts_at - interval '1 day'")
    assert reserve(engine, purchase(giant, "5")) == {}
    assert held(engine) == ["all per day"]


def test_a_window_that_turns_holds_no_more(engine: Engine) -> None:
    put(engine)
    first, second = call(engine), call(engine)
    reserve(engine, purchase(first, "0.99"))
    assert set(reserve(engine, purchase(second, "0.02"))) == {second}
    assert held(engine)

    execute(engine, "UPDATE budget_windows SET starts_at = starts_at - interval '1 day'")
    execute(engine, "UPDATE budget_reservations SET starts_at = starts_at - interval '1 day'")

    assert not held(engine)
    assert reserve(engine, purchase(second, "0.02")) == {}
    end(engine, first, "0.50")
    book(engine)
    assert sums(engine) == [("all per day", 0, 0.02, 1)]


def test_raising_or_removing_a_budget_releases_what_it_held(engine: Engine) -> None:
    put(engine)
    first, second = call(engine), call(engine)
    reserve(engine, purchase(first, "0.99"))
    reserve(engine, purchase(second, "0.02"))
    assert held(engine)
    put(engine, amount="2")
    assert not held(engine)
    put(engine, amount="0.5")
    assert held(engine)
    with transaction(engine) as connection:
        assert budgets.remove(connection, ALL)
        assert not budgets.remove(connection, ALL)
    assert sums(engine) == []
    assert execute(engine, "DELETE FROM budget_reservations") == 0


@pytest.mark.parametrize(
    ("outcome", "cost", "spent", "assumed"),
    [
        ("lost", None, 0.4, "0.40000000"),
        ("timeout", None, 0.4, "0.40000000"),
        ("interrupted", None, 0.4, "0.40000000"),
        ("interrupted", "0.1", 0.1, None),
        ("rate_limited", None, 0, None),
        ("api_error", None, 0, None),
        ("ok", None, 0, None),  # a model without a price
    ],
)
def test_what_a_call_without_a_cost_counts_as(
    engine: Engine, outcome: str, cost: str | None, spent: float, assumed: str | None
) -> None:
    put(engine)
    usage_id = call(engine)
    reserve(engine, purchase(usage_id, "0.40"))
    end(engine, usage_id, cost, outcome)
    book(engine)
    assert sums(engine) == [("all per day", spent, 0, 1)]
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT assumed_cost_usd FROM usage")).scalar_one()
    assert (None if found is None else str(found)) == assumed
    recount(engine)
    assert sums(engine) == [("all per day", spent, 0, 1)]


def test_a_call_that_was_never_made_gives_back_what_was_reserved(engine: Engine) -> None:
    put(engine)
    usage_id = call(engine)
    reserve(engine, purchase(usage_id, "0.40"))
    execute(engine, "DELETE FROM usage")
    book(engine)
    assert sums(engine)[0][1:3] == (0, 0)


def test_what_was_spent_before_a_budget_was_set_counts(engine: Engine) -> None:
    end(engine, call(engine), "0.70")
    end(engine, call(engine), "0.90")
    execute(engine, "UPDATE usage SET created_at = now() - interval '2 days' WHERE cost_usd = 0.9")
    in_flight = call(engine)

    put(engine)

    assert sums(engine) == [("all per day", 0.7, 0, 1)]
    # It knew nothing of the budget, so nothing was reserved for it; its cost counts when it ends.
    end(engine, in_flight, "0.20")
    book(engine)
    assert sums(engine) == [("all per day", 0.9, 0, 2)]


def test_a_new_budget_is_counted_once_more_when_all_have_heard_of_it(engine: Engine) -> None:
    put(engine)
    usage_id = call(engine)  # by somebody who has not
    end(engine, usage_id, "0.30")
    with transaction(engine) as connection:
        assert not spending.count_once_more(connection)
    execute(engine, "UPDATE budgets SET changed_at = now() - interval '1 minute'")
    with transaction(engine) as connection:
        assert spending.count_once_more(connection)
    with transaction(engine) as connection:
        assert not spending.count_once_more(connection)
    assert sums(engine) == [("all per day", 0.3, 0, 1)]


def test_all_sums_can_be_counted_anew_from_the_usage_table(engine: Engine) -> None:
    put(engine)
    put(engine, Which("user", "*", "month"), "5")
    ids = [call(engine, user_id=f"u{n % 3}") for n in range(12)]
    purchases = [purchase(each, "0.05", user_id=f"u{n % 3}") for n, each in enumerate(ids)]
    reserve(engine, *purchases)
    for usage_id in ids[:8]:
        end(engine, usage_id, "0.04")
    book(engine)
    before = sums(engine)
    execute(engine, "UPDATE budget_windows SET spent_usd = 99, reserved_usd = 3, calls = 1")
    recount(engine)
    assert sums(engine) == before
    execute(engine, "DELETE FROM budget_windows")
    recount(engine)
    assert sums(engine) == before


def test_what_the_relay_is_told(engine: Engine) -> None:
    put(engine)
    put(engine, Which("user", "alice", "day"), "1")
    put(engine, Which("all", "", "month", "batch"), "0")
    first = call(engine, user_id="alice")
    reserve(engine, purchase(first, "0.25", user_id="alice"))
    with transaction(engine) as connection:
        seen = dispatch.survey(connection)
    assert [(each.scope, each.held, each.left, each.mean) for each in seen.budgets] == [
        ("all", False, 0.75, 0.25)
    ]
    put(engine, Which("user", "alice", "day"), "0.1")
    assert reserve(engine, purchase(call(engine, user_id="alice"), user_id="alice"))
    with transaction(engine) as connection:
        seen = dispatch.survey(connection)
    assert {(each.scope, each.subject) for each in seen.budgets if each.held} == {("user", "alice")}


def test_any_number_at_once_never_reserve_more_than_there_is(engine: Engine) -> None:
    """Threads reserve, end, book, count and raise in any order; the sums are those of the rows."""
    put(engine, amount="3")
    put(engine, Which("task", "t", "month"), "2")
    put(engine, Which("user", "*", "day"), "1")
    ids = [call(engine, user_id=f"u{n % 4}") for n in range(240)]
    overdrawn: list[Any] = []

    def live(n: int) -> int:
        chance = random.Random(n)  # noqa: S311 – repeatable
        cost = Decimal(chance.randint(1, 8)) / 100
        one = purchase(ids[n], cost, user_id=f"u{n % 4}")
        if reserve(engine, one):
            return 0
        if chance.random() < 0.2:
            recount(engine)
        if chance.random() < 0.8:
            end(engine, ids[n], str(cost), chance.choice(["ok", "lost", "rate_limited"]))
        if chance.random() < 0.5:
            book(engine, ids[n])
        with transaction(engine) as connection:
            overdrawn.extend(
                connection.execute(
                    text("""SELECT * FROM budget_status
                            WHERE spent_usd + reserved_usd > amount_usd OR reserved_usd < 0""")
                )
            )
        return 1

    with ThreadPoolExecutor(24) as pool:
        passed = sum(pool.map(live, range(len(ids))))

    assert not overdrawn
    assert 20 < passed < 240
    book(engine)
    before = sums(engine)
    recount(engine)
    assert sums(engine) == before
    with transaction(engine) as connection:
        open_ = connection.execute(
            text("""SELECT coalesce(sum(usd), 0) FROM budget_reservations
                    JOIN budgets ON id = budget_id WHERE scope = 'all'""")
        ).scalar_one()
    assert sums(engine)[0][2] == float(open_)


def test_a_batch_is_told_how_many_of_its_requests_fit(engine: Engine) -> None:
    put(engine, Which("all", "", "day", "batch"), "0.10")
    ids = [call(engine) for _ in range(8)]
    with transaction(engine) as connection:
        wanted = [purchase(each, "0.02", lane="batch") for each in ids]
        refused = spending.reserve(connection, wanted)
    assert sorted(refused) == ids[5:]


def due(engine: Engine, *users: str | None, **job: Any) -> None:
    with transaction(engine) as connection:
        insert_jobs(connection, [new_job(user_id=user, **job) for user in users])


def sent(engine: Engine) -> list[str | None]:
    """The users whose jobs a relay sends now; the model of the task `t` is `m`."""
    with transaction(engine) as connection:
        return [job.user_id for job in dispatch_now(connection, batch=100).jobs]


@pytest.mark.parametrize(
    ("which", "goes"),
    [
        (ALL, 0),
        (Which("task", "t", "day"), 0),
        (Which("task", "u", "day"), 3),
        (Which("task", "*", "day"), 0),
        (Which("model", "m", "month"), 0),
        (Which("model", "n", "month"), 3),
        (Which("all", "", "day", "batch"), 3),
    ],
)
def test_a_relay_sends_nothing_that_is_held(engine: Engine, which: Which, goes: int) -> None:
    put(engine, which, "0")
    reserve(engine, purchase(call(engine)))
    due(engine, None, None, None)
    assert len(sent(engine)) == goes


def test_a_relay_passes_over_users_who_are_held_however_many_their_jobs(engine: Engine) -> None:
    put(engine, Which("user", "*", "day"), "0.01")
    for _ in range(2):
        reserve(engine, purchase(call(engine, user_id="alice"), "0.01", user_id="alice"))
    due(engine, *["alice"] * 300)
    due(engine, "bob", None, "carol")
    assert sorted(map(str, sent(engine))) == ["None", "bob", "carol"]


def test_a_relay_sends_about_as_many_as_fit(engine: Engine) -> None:
    put(engine, amount="1")
    reserve(engine, purchase(call(engine), "0.10"))
    due(engine, *[None] * 50)
    assert len(sent(engine)) == 9
    assert sent(engine) == []


def names_of(connection: Connection, job_id: UUID) -> list[str]:
    return [row["label"] for row in budgets.holding(connection, job_id, {"t": "claude-x"})]


@pytest.mark.parametrize(
    ("which", "job", "holds"),
    [
        (ALL, {}, True),
        (Which("task", "t", "day"), {}, True),
        (Which("task", "u", "day"), {}, False),
        (Which("user", "alice", "day"), {"user_id": "alice"}, True),
        (Which("user", "alice", "day"), {}, False),
        (Which("model", "claude-x", "day"), {}, True),
        (Which("model", "claude-x", "day"), {"model": "claude-x-20260101"}, True),
        (Which("model", "claude-x", "day"), {"model": "claude-y"}, False),
        (Which("all", "", "day", "batch"), {}, False),
        (Which("all", "", "day", "batch"), {"lane": "batch"}, True),
        (Which("all", "", "day", "interactive"), {"lane": "batch"}, False),
        (ALL, {"lane": "batch"}, True),
    ],
)
def test_which_budget_holds_a_job(
    engine: Engine, which: Which, job: dict[str, Any], holds: bool
) -> None:
    put(engine, which, "0")
    (job_id,) = enqueue(engine, new_job(**job))
    with transaction(engine) as connection:
        assert names_of(connection, job_id) == ([str(which)] if holds else [])
        connection.execute(text("UPDATE jobs SET state = 'dispatched'"))
        assert names_of(connection, job_id) == []


def test_the_deadline_of_a_held_job_does_not_come_near(engine: Engine) -> None:
    put(engine, Which("task", "t", "day"), "0")
    _, other, unclaimed = enqueue(engine, new_job(), new_job(task="u"), new_job())
    execute(engine, "UPDATE jobs SET deadline_at = now() - interval '1 hour', started_at = now()")
    execute(engine, "UPDATE jobs SET started_at = NULL WHERE id = :id", id=unclaimed)
    with transaction(engine) as connection:
        assert budgets.keep_deadlines(connection, {}, ahead=600) == 1
        late = connection.execute(text("SELECT id FROM jobs WHERE deadline_at < now()")).scalars()
        assert set(late) == {other, unclaimed}


@pytest.fixture
def crossed(engine: Engine) -> Callable[[], list[tuple[str, int | None, bool]]]:
    def look() -> list[tuple[str, int | None, bool]]:
        with transaction(engine) as connection:
            return [
                (row["label"], row["reached"], row["exhausted"])
                for row in budgets.crossed(connection)
            ]

    return look


def test_each_threshold_is_told_once_a_window(
    engine: Engine, crossed: Callable[[], list[tuple[str, int | None, bool]]]
) -> None:
    put(engine, hard=False, alert_at=[50, 80, 100])
    ids = [call(engine) for _ in range(4)]
    reserve(engine, purchase(ids[0], "0.49"))
    assert crossed() == []
    reserve(engine, purchase(ids[1], "0.40"))
    assert crossed() == [("all per day", 80, False)]
    assert crossed() == []
    reserve(engine, purchase(ids[2], "0.20"))
    assert crossed() == [("all per day", 100, False)]
    assert crossed() == []
    put(engine, amount="2", hard=False, alert_at=[50, 80, 100])
    assert crossed() == [("all per day", 50, False)]
    assert crossed() == []


def test_that_a_hard_budget_holds_is_told_once_and_not_twice(
    engine: Engine, crossed: Callable[[], list[tuple[str, int | None, bool]]]
) -> None:
    put(engine)
    ids = [call(engine) for _ in range(3)]
    reserve(engine, purchase(ids[0], "0.97"))
    assert crossed() == [("all per day", 80, False)]
    reserve(engine, purchase(ids[1], "0.04"))
    assert crossed() == [("all per day", 80, True)]
    end(engine, ids[0], "1.2")
    book(engine)
    assert crossed() == []
