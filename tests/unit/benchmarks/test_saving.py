"""The workload that shows what is saved, and the sums that are made of it."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.bars import verdicts
from benchmarks.saving_report import ARTICLE, OURS, PLAIN, share_of_plain, tables, unexplained_usd
from benchmarks.saving_workload import HOUR, TASKS, Workload, arrivals
from worker.engine.registry import load_registry


def identities(workload: Workload) -> list[str]:
    return [json.dumps([job.task, dict(job.values)]) for job in arrivals(workload)]


def test_the_same_workload_is_the_same_jobs_and_another_seed_is_not() -> None:
    assert arrivals(Workload()) == arrivals(Workload())
    assert arrivals(Workload()) != arrivals(Workload(seed=9))


def test_jobs_come_in_order_within_the_hour_as_many_of_each_task() -> None:
    jobs = arrivals(Workload())
    assert [job.at for job in jobs] == sorted(job.at for job in jobs)
    assert 0 <= jobs[0].at < jobs[-1].at < HOUR
    assert set(Counter(job.task for job in jobs).values()) <= {249, 250, 251}
    assert {job.task for job in jobs} == set(TASKS)
    most = Counter(job.at for job in jobs).most_common(Workload().bursts)
    assert sum(number for _, number in most) == 500


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_so_many_jobs_repeat_an_input_and_can_wait(share: float) -> None:
    workload = Workload(jobs=4000, repeats=share)
    seen = identities(workload)
    assert 1 - len(set(seen)) / len(seen) == pytest.approx(share, abs=0.02)
    can_wait = sum(job.deferrable for job in arrivals(workload)) / 4000
    assert can_wait == pytest.approx(0.3, abs=0.02)


def test_a_few_inputs_are_repeated_often_and_most_never() -> None:
    numbers = sorted(Counter(identities(Workload(jobs=4000))).values(), reverse=True)
    assert numbers[0] > 10
    assert numbers[len(numbers) // 2] == 1


def test_every_input_is_one_that_its_task_takes() -> None:
    registry = load_registry()
    for job in arrivals(Workload(jobs=100)):
        registry[job.task].parse_input(job.values)


def row(usd: str, same: int = 100) -> dict[str, Any]:
    tokens = ("input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens")
    return {"usd": usd, "calls": 100, "same": same, **dict.fromkeys(tokens, 1)}


def measured(ours: str, saved: str, same: int = 100) -> dict[str, Any]:
    by = {"result cache": saved, "coalescing": "0", "batches": "0", "prompt cache": "0"}
    load = {"jobs": 100, "deferrable": 0.3}
    contenders = {
        PLAIN: row("10"),
        ARTICLE: row("9"),
        OURS: row(ours, same) | {"saved": {"by": by}},
    }
    case = {"workload": load, "distinct": 80, "contenders": contenders}
    return {"speed": 60.0, "cases": {"judged": case, "another": case}}


@pytest.mark.parametrize(
    ("ours", "saved", "same", "met"),
    [
        ("4.5", "5.5", 100, [True, True, True]),
        ("4.6", "5.4", 99, [False, False, True]),
        ("4.5", "5.506", 100, [True, True, False]),
    ],
)
def test_the_bars_judge_dollars_outputs_and_books(
    ours: str, saved: str, same: int, met: list[bool]
) -> None:
    result = measured(ours, saved, same)
    assert [verdict.met for verdict in verdicts({"saving": result})] == met


def test_shares_and_differences_are_of_the_ledgers() -> None:
    case = measured("4", "6.5")["cases"]["judged"]
    assert share_of_plain(case) == Decimal("0.4")
    assert unexplained_usd(case) == Decimal("0.5")


def test_the_tables_show_every_contender_source_and_workload() -> None:
    paid, saved, others = tables(measured("4", "6"))
    assert [cells[0] for cells in paid.rows] == [PLAIN, ARTICLE, OURS]
    assert paid.rows[2][1:3] == ("$40.00", "40.0%")
    assert [cells[0] for cells in saved.rows][-1] == "paid"
    assert [cells[0] for cells in others.rows] == ["judged", "another"]
    for shown in (paid, saved, others):
        assert {len(cells) for cells in shown.rows} == {len(shown.columns)}
