"""Many relays, one working set; and producers that change their minds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from tasks import summarize_text
from tests.chaos.fleet import Fleet
from tests.chaos.system import System
from worker.storage.engine import get_engine

Scale = Callable[[int, int], int]

WORKING_SET = 50


def test_each_job_is_called_once_and_the_broker_holds_no_more_than_the_working_set(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number = scale(5000, 300)
    system.claude.configure(latency=0.05)
    fleet.start(
        scale(4, 2),
        CLAUDE_JOBS_WORKING_SET=str(WORKING_SET),
        CLAUDE_JOBS_REDISPATCH_SECONDS="60",
    )
    waiting: list[int] = []
    dispatched: list[int] = []

    def sampled() -> bool:
        waiting.append(broker.llen("celery"))
        dispatched.append(system.count("state = 'dispatched'"))
        return system.all_final()

    with system.broker() as broker:
        system.enqueue(number)
        system.eventually(sampled, system.unfinished, scale(300, 60))

    assert 0 < max(dispatched) <= WORKING_SET
    assert max(waiting) <= WORKING_SET
    system.assert_one_call_each()
    system.assert_accounted_for()


@pytest.mark.usefixtures("producing")
def test_jobs_of_a_transaction_that_was_rolled_back_never_existed(
    system: System, fleet: Fleet, scale: Scale
) -> None:
    number, every = scale(1000, 100), 10
    fleet.start()
    committed = set()

    for index in range(number):
        with Session(get_engine()) as session:
            job = summarize_text.enqueue(
                session=session,
                text=f"The fox, the dog and number {index}.",
                max_words=50,
                audience="everybody",
            )
            if index % every == 0:
                session.rollback()
            else:
                session.commit()
                committed.add(job.id)

    system.all_end(seconds=scale(120, 60))
    assert {row["id"] for row in system.jobs()} == committed
    assert system.summary() == {"succeeded": number - number // every}
    assert len(system.claude.ledger()) == len(committed)
