"""What is worth an alert, and how often it is raised, on a real Postgres."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from tests.integration.alerts_world import another, ended, execute, look, rows
from worker.engine.alerts import announce
from worker.storage import alerts, control
from worker.storage.engine import transaction

__all__ = ["another"]  # the fixture

pytestmark = pytest.mark.usefixtures("producer")


# What is worth an alert.


def test_a_call_above_its_task_s_bound() -> None:
    ended(5000)
    ended(5001, 7000, 6000, outcome="truncated")
    ended(9000, task="analyze_document")
    ended(5002, task="not_known_here")

    look()

    unknown, summary = rows()
    assert (summary["kind"], summary["subject"]) == ("output_bound", "summarize_text")
    assert summary["count"] == 3
    assert summary["details"]["output_tokens"] == 7000
    assert "7,000 output tokens" in summary["message"]
    assert "\n" not in summary["message"]
    assert unknown["subject"] == "not_known_here"


def test_a_complete_reply_of_a_model_without_a_price() -> None:
    ended(10, 10, model="claude-new", priced=False)
    ended(0, model="claude-cut-off", priced=False, complete=False, outcome="timeout")

    look()

    (found,) = rows()
    assert (found["kind"], found["subject"], found["count"]) == ("unpriced_model", "claude-new", 2)
    assert "usage reprice" in found["message"]


def test_a_spend_pause_and_the_next_one_but_not_a_pause_by_hand() -> None:
    with transaction() as connection:
        control.pause(connection, "task", "summarize_text", reason="x", by="claude-jobs")
        control.pause(connection, "all", "", reason="spend limit", by="claude-jobs")
    look()
    look()
    (found,) = rows()
    assert (found["kind"], found["subject"], found["count"]) == ("spend_pause", "all", 1)
    assert "claude-jobs resume" in found["message"]

    with transaction() as connection:
        control.resume(connection, "all", "")
        control.pause(connection, "all", "", reason="by hand", by="anna")
    look()
    assert [row["count"] for row in rows()] == [1]

    execute("DELETE FROM pauses")
    with transaction() as connection:
        control.pause(connection, "all", "", reason="spend limit", by="claude-jobs")
    look()
    look()
    assert [row["count"] for row in rows()] == [1, 1]  # people are told of each


def test_replies_that_became_longer() -> None:
    rng = random.Random(1)  # noqa: S311
    steady = [round(rng.lognormvariate(5, 0.5)) for _ in range(1500)]
    ended(*steady)
    ended(*steady[:300], version="2.0")
    ended(*[3 * n for n in steady], call=2)  # repairs
    ended(*[0] * 300, complete=False, outcome="timeout")
    look()
    assert rows() == []

    for n in steady[:60]:
        ended(2 * n)
        look()

    (found,) = rows()
    assert (found["kind"], found["subject"]) == ("length_drift", "summarize_text/1.0")
    assert 1.5 <= found["details"]["factor"] < 3
    assert found["details"]["quartiles_before"][1] in range(130, 170)
    stored = rows("SELECT * FROM reply_lengths ORDER BY prompt_version")
    assert [row["prompt_version"] for row in stored] == ["1.0", "2.0"]
    assert stored[0]["calls"] <= 60  # learning anew


def test_nothing_private_leaves_the_system() -> None:
    ended(9001, priced=False)

    with capture_logs() as logged:
        look()

    assert {entry["kind"] for entry in logged} == {"output_bound", "unpriced_model"}
    for row in rows():
        assert set(row["details"]) <= {
            *("job_id", "task", "model", "prompt", "prompt_version", "output_tokens", "bound")
        }


# Raising.


def test_the_same_within_an_hour_is_counted_and_then_raised_anew() -> None:
    def raised(**options: Any) -> alerts.Raised:
        with transaction() as connection:
            return alerts.raise_alert(connection, "budget", "a", "m", {"n": 1}, **options)

    first, second = raised(), raised(count=3)
    assert (first.new, second.new, second.id, second.count) == (True, False, first.id, 4)

    execute("UPDATE alerts SET first_at = first_at - interval '61 minutes'")
    third = raised()

    assert (third.new, third.count) == (True, 1)
    assert [row["collecting"] for row in rows()] == [False, True]
    with capture_logs() as logged:
        announce([first, second, third])
    assert [entry["count"] for entry in logged] == [1, 1]


def test_two_that_raise_the_same_at_once_make_one_alert(another: Engine) -> None:
    together = Barrier(8)

    def raised(_: int) -> bool:
        together.wait(30)
        with transaction(another) as connection:
            return alerts.raise_alert(connection, "budget", "a", "m", {}).new

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(raised, range(8))) == [False] * 7 + [True]
    assert [row["count"] for row in rows()] == [8]


def test_old_alerts_are_deleted() -> None:
    with transaction() as connection:
        for n in range(3):
            alerts.raise_alert(connection, "budget", str(n), "m", {})
        connection.execute(
            text("UPDATE alerts SET last_at = now() - interval '91 days' WHERE subject < '2'")
        )
        assert alerts.prune(connection, older_than=90 * 86400, limit=1) == 1
        assert alerts.prune(connection, older_than=90 * 86400) == 1
        assert alerts.prune(connection, older_than=90 * 86400) == 0
