"""`claude-jobs budgets`: what it sets, what it shows, and what it refuses in one line."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from tests.integration.command import Rows, Run
from tests.integration.steps import new_job
from worker.storage.engine import build_engine, transaction
from worker.storage.enqueue import insert_jobs

LONG = "x" * 2001


def test_a_budget_is_set_shown_raised_and_removed(run: Run, rows: Rows) -> None:
    assert run("budgets").out == "no budgets\n"
    done = run("budgets", "set", "task:summarize_text", "$49.50", "--per", "month", "--hard")
    assert done.err == "task:summarize_text per month: $49.50 (hard)\n"
    changed = run("budgets", "set", "task:summarize_text", "1e2", "--per", "month", "--soft")
    assert changed.err == "task:summarize_text per month: $100.00 (soft), it was $49.50\n"
    raised = run("budgets", "raise", "task:summarize_text", "120", "--per", "month")
    assert raised.err == "task:summarize_text per month: $120.00, it was $100.00\n"

    (shown,) = json.loads(run("budgets", "--json").out)
    assert shown["label"] == "task:summarize_text per month"
    assert (shown["hard"], shown["held"], shown["spent_usd"]) == (False, False, "0.00000000")
    assert shown["alert_at"] == [80, 100]
    listed = run("budgets").out.splitlines()[1]
    assert "$120.00" in listed
    assert "soft" in listed
    assert run("budgets", "--held").out == "no budget holds jobs\n"

    assert run("budgets", "remove", "task:summarize_text", "--per", "month").code == 0
    assert rows("SELECT * FROM budgets") == []
    assert rows("SELECT * FROM budget_windows") == []


def test_a_budget_is_told_from_another_by_period_and_lane(run: Run, rows: Rows) -> None:
    run("budgets", "set", "all", "1", "--per", "day")
    run("budgets", "set", "all", "2", "--per", "month")
    run("budgets", "set", "all", "3", "--per", "day", "--lane", "batch")
    run("budgets", "set", "user:[red]", "0.00000001", "--per", "day", "--alert-at", "5")
    labels = [row["label"] for row in json.loads(run("budgets", "--json").out)]
    assert labels == [
        "all per day (batch)",
        "all per day",
        "all per month",
        "user:[red] per day",
    ]
    assert "user:[red] per day" in run("budgets").out
    assert [
        row["alert_at"] for row in rows("SELECT alert_at FROM budgets WHERE scope = 'user'")
    ] == [[5]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("set", "all", "-5", "--per", "day"), "'-5' is not between 0 and ten billion dollars"),
        (("set", "all", "NaN", "--per", "day"), "'NaN' is not between 0 and ten billion dollars"),
        (("set", "all", "inf", "--per", "day"), "'inf' is not between 0 and ten billion dollars"),
        (("set", "all", "1e400", "--per", "day"), "'1e400' is not between 0 and"),
        (("set", "all", "1e10", "--per", "day"), "'1e10' is not between 0 and ten billion"),
        (("set", "all", "1e-400", "--per", "day"), "'1e-400' has more than eight decimal places"),
        (("set", "all", "0.000000001", "--per", "day"), "has more than eight decimal places"),
        (("set", "all", "five", "--per", "day"), "'five' is no amount of dollars such as 49.50"),
        (("set", "all", "", "--per", "day"), "'' is no amount of dollars"),
        (("set", "all", "5", "--per", "week"), "--per 'week': choose day or month"),
        (("set", "all", "5", "--per", "day", "--lane", "x"), "--lane 'x': choose interactive or"),
        (
            ("set", "all:x", "5", "--per", "day"),
            "'all:x' is none of all, task:NAME, user:ID, model",
        ),
        (("set", "team:x", "5", "--per", "day"), "'team:x' is none of all, task:NAME, user:ID"),
        (("set", "user:", "5", "--per", "day"), "'user:' is none of all, task:NAME, user:ID"),
        (("set", "task:nope", "5", "--per", "day"), "unknown task 'nope'; there are "),
        (("set", f"user:{LONG}", "5", "--per", "day"), "user: a name has 2,000 bytes at most"),
        (("set", "user:a\0b", "5", "--per", "day"), "user"),
        (("raise", "all", "5", "--per", "day"), "there is no budget all per day; `claude-jobs"),
        (
            ("remove", "all", "--per", "day"),
            "there is no budget all per day; `claude-jobs budgets`",
        ),
        (("why", "x"), "'x' is not a job id (a uuid)"),
        (("why", "0" * 32), "no job 00000000-0000-0000-0000-000000000000: never committed"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    run: Run, rows: Rows, arguments: tuple[str, ...], line: str
) -> None:
    assert line in run("budgets", *arguments).line
    assert rows("SELECT * FROM budgets") == []


def test_a_budget_is_not_raised_to_less(run: Run) -> None:
    run("budgets", "set", "all", "5", "--per", "day")
    line = run("budgets", "raise", "all", "5", "--per", "day").line
    assert "all per day is $5.00: name a higher amount" in line


def test_a_model_without_a_price_is_warned_of(run: Run) -> None:
    done = run("budgets", "set", "model:claude-hiaku", "5", "--per", "day")
    assert "no price is known for claude-hiaku: is that its name?" in done.err
    assert (
        "no price" not in run("budgets", "set", "model:claude-haiku-5-5", "5", "--per", "day").err
    )


def test_postgres_itself_refuses_what_the_command_would(run: Run) -> None:
    engine = build_engine(run.environment["DATABASE_URL"])
    for values in (
        "('all', '', 'day', 'NaN', true, 'x')",
        "('all', '', 'day', -1, true, 'x')",
        "('all', 'x', 'day', 1, true, 'x')",
        "('task', '', 'day', 1, true, 'x')",
        "('team', 'x', 'day', 1, true, 'x')",
        "('all', '', 'hour', 1, true, 'x')",
    ):
        with pytest.raises(Exception, match="violates check constraint"), transaction(engine) as c:
            c.execute(
                text(f"""INSERT INTO budgets (scope, name, period, amount_usd, hard, changed_by)
                         VALUES {values}""")
            )
    engine.dispose()


def test_why_a_job_waits(run: Run) -> None:
    engine = build_engine(run.environment["DATABASE_URL"])
    with transaction(engine) as connection:
        ids = insert_jobs(
            connection, [new_job(task="summarize_text"), new_job(task="classify_ticket")]
        )
    engine.dispose()
    run("budgets", "set", "model:claude-haiku-5-5", "0", "--per", "day", "--hard")
    run("budgets", "set", "task:summarize_text", "0", "--per", "month", "--hard")
    told = run("budgets", "why", ids[0]).out.splitlines()
    assert told[0].startswith("task:summarize_text per month: $0.00 is used up; until ")
    assert "model:claude-haiku-5-5 per day" in told[1]
    assert "held by" in run("show", ids[0]).out
    assert "task:summarize_text" not in run("budgets", "why", ids[1]).out
    shown = json.loads(run("show", ids[0], "--json").out)
    assert shown["held_by"][0]["label"] == "task:summarize_text per month"
    status = json.loads(run("status", "--json").out)
    assert len(status["holding"]) == 2
    run("budgets", "set", "task:summarize_text", "1", "--per", "month", "--hard")
    run("budgets", "remove", "model:claude-haiku-5-5", "--per", "day")
    assert run("budgets", "why", ids[0]).out == "no budget holds the job, which is queued\n"


def test_prices_that_were_corrected_are_counted_anew(run: Run, rows: Rows) -> None:
    run("budgets", "set", "all", "5", "--per", "day")
    engine = build_engine(run.environment["DATABASE_URL"])
    with transaction(engine) as connection:
        connection.execute(
            text("""INSERT INTO usage (task, attempt, call, outcome, model, prompt, prompt_version,
                                       prompt_sha256, finished_at, complete, cost_usd)
                    VALUES ('t', 1, 1, 'ok', 'm', 'p', '1', '0', now(), true, 1.25)""")
        )
    engine.dispose()
    assert run("budgets", "recount").err == "1 budgets counted\n"
    assert [str(row["percent"]) for row in rows("SELECT percent FROM budget_status")] == ["25.0"]
