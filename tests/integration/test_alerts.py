"""Alerts on a real Postgres: every call is looked at once, whoever looks and whatever dies."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from worker.cli import main
from worker.engine.alerts import AlertLoop, announce
from worker.storage import alerts, control, inspection
from worker.storage.engine import build_engine, transaction

pytestmark = pytest.mark.usefixtures("producer")

BOUNDS = {"summarize_text": 5000, "analyze_document": 9000}

_INSERT = text("""
INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version, prompt_sha256,
                   output_tokens, cost_usd, complete, finished_at)
SELECT :task, 1, :call, :outcome, :model, :prompt, :version, 'x', tokens,
       CASE WHEN :priced THEN 0.001 END, :complete, CASE WHEN :ended THEN now() END
FROM unnest(cast(:lengths AS int[])) WITH ORDINALITY AS new (tokens, n) ORDER BY n
""")


def calls(connection: Connection, *lengths: int, **columns: Any) -> None:
    """Usage rows with so many output tokens each."""
    known = {
        "task": "summarize_text",
        "call": 1,
        "outcome": "ok",
        "model": "claude-haiku-5-5",
        "prompt": "summarize_text",
        "version": "1.0",
        "priced": True,
        "complete": True,
        "ended": True,
    }
    connection.execute(_INSERT, known | columns | {"lengths": list(lengths)})


def ended(*lengths: int, **columns: Any) -> None:
    with transaction() as connection:
        calls(connection, *lengths, **columns)


def look() -> None:
    """Look until there is nothing new."""
    loop = AlertLoop(BOUNDS)
    while loop.step() == 0:
        pass


def rows(statement: str = "SELECT * FROM alerts ORDER BY kind, subject, first_at") -> Sequence[Any]:
    with transaction() as connection:
        return connection.execute(text(statement)).mappings().all()


def execute(statement: str) -> None:
    with transaction() as connection:
        connection.execute(text(statement))


def uninspected() -> int:
    return int(rows("SELECT count(*) FROM usage WHERE NOT inspected")[0]["count"])


@pytest.fixture
def another(environment: dict[str, str]) -> Iterator[Engine]:
    """Connections besides those of this process's pool."""
    engine = build_engine(environment["DATABASE_URL"], pool_size=20)
    yield engine
    engine.dispose()


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


# Every call is looked at once.


def test_a_call_is_found_when_its_transaction_commits_however_late(another: Engine) -> None:
    with another.connect() as slow, slow.begin() as unfinished:
        calls(slow, 8000)
        for n in range(3):
            ended(6000 + n)
            look()
        assert [row["count"] for row in rows()] == [3]
        unfinished.commit()

    look()

    assert [row["count"] for row in rows()] == [4]
    assert uninspected() == 0


def test_calls_that_end_in_another_order_than_they_began() -> None:
    ended(0, 0, 0, ended=False, outcome="in_flight", complete=False)
    ids = [row["id"] for row in rows("SELECT id FROM usage ORDER BY id")]
    for done, call_id in enumerate([ids[2], ids[0], ids[1]], start=1):
        execute(
            "UPDATE usage SET outcome = 'ok', complete = true, output_tokens = 6000, cost_usd = 1,"
            f" finished_at = now() - interval '1 day' WHERE id = {call_id}"
        )
        look()
        assert [row["count"] for row in rows()] == [done]


def test_many_workers_look_at_once_and_each_call_counts_once(another: Engine) -> None:
    together = Barrier(9)
    assert rows() == []  # this process's pool is built by one thread

    def worker(_: int) -> None:
        together.wait(30)
        for _ in range(30):
            AlertLoop(BOUNDS).step()

    def produce() -> None:
        together.wait(30)
        for _ in range(40):
            with transaction(another) as connection:
                calls(connection, *[6000] * 25)

    with ThreadPoolExecutor(9) as threads:
        everybody = [threads.submit(produce), *(threads.submit(worker, n) for n in range(8))]
        for done in everybody:
            done.result(60)
    look()

    assert [row["count"] for row in rows()] == [1000]
    assert rows("SELECT calls FROM reply_lengths") == [{"calls": 1000}]


def test_a_look_that_dies_never_was(another: Engine, eventually: Callable[..., None]) -> None:
    ended(6000)
    with another.connect() as dying:
        dying.begin()
        assert inspection.try_lock(dying)
        assert len(inspection.take_ended_calls(dying, 10)) == 1
        alerts.raise_alert(dying, "output_bound", "summarize_text", "…", {})
        assert AlertLoop(BOUNDS).step() > 0  # somebody else is looking: later
        pid = dying.execute(text("SELECT pg_backend_pid()")).scalar_one()
        execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(OperationalError):
            dying.execute(text("SELECT 1"))
        dying.rollback()

    def looked() -> bool:
        look()
        return [row["count"] for row in rows()] == [1]

    eventually(looked, "the call was lost")


def test_a_row_that_somebody_else_holds_is_left_for_the_next_look(another: Engine) -> None:
    ended(6000, 6000)
    with another.connect() as other, other.begin():
        other.execute(text("SELECT FROM usage ORDER BY id LIMIT 1 FOR UPDATE"))
        look()
        assert [row["count"] for row in rows()] == [1]

    look()

    assert [row["count"] for row in rows()] == [2]


def test_a_look_reads_what_is_new_however_much_there_is() -> None:
    ended(*[10] * 20_000)
    execute("UPDATE usage SET inspected = true")
    ended(6000)
    execute("ANALYZE usage")

    plan = rows(
        "EXPLAIN SELECT id FROM usage WHERE finished_at IS NOT NULL AND NOT inspected"
        " ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED"
    )

    assert any("usage_uninspected" in row["QUERY PLAN"] for row in plan), plan


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


# The command.


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["claude-jobs", "alerts", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def test_the_command_lists_and_acknowledges(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run() == (0, "no alerts\n", "")
    ended(6000, priced=False)
    look()

    listed = json.loads(run("--json")[1])
    assert [row["kind"] for row in listed] == ["output_bound", "unpriced_model"]
    assert "6,000 output tokens" in run()[1]
    first, second = (row["id"] for row in listed)
    assert run("ack", first) == (0, "", "1 alerts acknowledged\n")
    assert run("ack", first)[0] == 1
    assert run("ack", "--all")[2] == "1 alerts acknowledged\n"
    seen = {row["id"]: row["acknowledged_by"] for row in json.loads(run("--json")[1])}
    assert all(seen[alert] for alert in (first, second))

    execute("UPDATE alerts SET last_at = now() - interval '8 days'")
    assert run()[1] == "no alerts\n"
    assert len(json.loads(run("--since", "9d", "--json")[1])) == 2


def test_bad_options_are_one_line(run: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in (("--since", "x"), ("ack",), ("ack", "12"), ("ack", "12", "--all")):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("claude-jobs: ")
