"""`claude-jobs report` at its edges: numbers, names, calendars, terminals, files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sandbox import history
from tests.integration.command import Run
from tests.usage_rows import MONDAY_BEFORE, TUESDAY, call
from worker.report.collect import collect
from worker.report.period import Period
from worker.report.weekly import WeeklyReview
from worker.storage.engine import transaction

WEEK = ("--weekly", "--week", "2026-W47")
PERIOD = Period(date(2026, 11, 16))
HOSTILE = "\x1b[2J<img src=x onerror=alert(1)>[bold]\u202e{{ 7 * 7 }}"

# The price list is this process's, by its settings.
pytestmark = pytest.mark.usefixtures("producer")


def review(engine: Engine, period: Period = PERIOD) -> WeeklyReview:
    with transaction(engine) as connection:
        return collect(connection, period)


def read(run: Run) -> Any:
    result = run("report", *WEEK, "--json")
    assert result.code == 0, result
    return json.loads(result.out)


def test_numbers_that_are_huge(run: Run, engine: Engine, tmp_path: Path) -> None:
    dear = {"cost_usd": "999999.12345678", "full_cost_usd": "999999.12345678"}
    with transaction(engine) as connection:
        call(connection, 1500, output_tokens=2**31 - 1, **dear)
        call(connection, 2, created_at=MONDAY_BEFORE, **dear)

    out = run("report", *WEEK).out
    assert "$1,499,998,685.19" in out
    assert "3,221,225,470,500" in out
    assert run("report", *WEEK, "--html", "r.html").code == 0
    assert "$1,499,998,685.19" in (tmp_path / "r.html").read_text()


def test_two_hundred_versions_and_a_hundred_thousand_users(run: Run, engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection)
        connection.execute(
            text("""
            INSERT INTO usage (task, user_id, attempt, call, outcome, model, prompt, prompt_version,
                prompt_sha256, output_tokens, cost_usd, full_cost_usd, complete, created_at,
                finished_at)
            SELECT 't', 'user ' || n, 1, 1, 'ok', 'claude-haiku-5-5', 'p', '1.' || n % 200, 'x',
                100, n / 1e6, n / 1e6, true, :at, :at
            FROM generate_series(1, 100000) AS n
            """),
            {"at": TUESDAY},
        )

    found = read(run)
    users = found["by"]["user"]
    assert [users[0]["name"], users[-1]["name"]] == ["user 100000", "99,991 others"]
    assert len(users) == 11
    assert sum(Decimal(line["now"]["cost_usd"]) for line in users) == Decimal("5000.0502")
    assert found["by"]["prompt_version"][-1]["name"] == "189 others"
    assert run("report", *WEEK, "--html", "r.html").code == 0


def test_the_present_week_is_compared_with_the_same_days(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, 10)
        call(connection, 30, created_at=TUESDAY + timedelta(days=3))
        call(connection, 10, created_at=MONDAY_BEFORE)
        call(connection, 70, created_at=MONDAY_BEFORE + timedelta(days=3))

    found = review(engine, Period(PERIOD.start, 2))

    assert (found.now.jobs, found.before.jobs) == (10, 10)
    assert [week.jobs for week in found.weeks[-2:]] == [80, 10]
    assert any("2 days are over of this week" in note for note in found.notes)


def test_a_week_before_that_began_late_is_pointed_out(engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection)
        call(connection, created_at=datetime(2026, 11, 13, tzinfo=UTC))
    assert any("the first 4 days have no calls" in note for note in review(engine).notes)


def test_the_year_turns_within_a_week(engine: Engine) -> None:
    with transaction(engine) as connection:
        for day in (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)):
            call(connection, created_at=day)
        call(connection, created_at=datetime(2027, 1, 4, tzinfo=UTC))

    found = review(engine, Period(date(2026, 12, 28)))
    assert (found.period.name, found.now.jobs) == ("2026-W53", 2)
    assert review(engine, Period(date(2027, 1, 4))).before.jobs == 2


def test_hostile_names_do_nothing_to_a_terminal(run: Run, engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, task=HOSTILE, prompt=HOSTILE, user_id=HOSTILE, model=HOSTILE)
        connection.execute(
            text("INSERT INTO alerts (kind, subject, message, details, first_at, last_at)"
                 " VALUES (:x, :x, :x, '{}', :at, :at)"),
            {"x": HOSTILE, "at": TUESDAY},
        )  # fmt: skip

    out = run("report", *WEEK).out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "<U+001B>[2J<img src=x onerror=alert(1)>[bold]<U+202E>{{ 7 * 7 }}" in out


def test_a_narrow_terminal_cuts_no_amount(environment: dict[str, str], engine: Engine) -> None:
    with transaction(engine) as connection:
        history.fill(connection, PERIOD.start, scale=0.05)
    command = [Path(sys.executable).with_name("claude-jobs"), "report", *WEEK]
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 44, 0, 0))
    with subprocess.Popen(command, env=os.environ | environment, stdout=terminal) as process:
        os.close(terminal)
        out = b""
        try:
            while chunk := os.read(screen, 65536):
                out += chunk
        except OSError:  # how Linux says that nobody has the terminal any more
            pass
    os.close(screen)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    total = next(line for line in lines if line.lstrip("\x1b[01m").startswith("total"))
    assert total.count("$") == 2
    assert "…" not in total


def test_bad_input_is_one_line(run: Run, tmp_path: Path) -> None:
    assert "written as in 2026-W47" in run("report", "--week", "47").line
    assert "give one of them" in run("report", *WEEK, "--until", "2026-11-22").line
    assert "give one of them" in run("report", *WEEK, "--json", "--html", "r.html").line
    missing = tmp_path / "no" / "r.html"
    line = run("report", *WEEK, "--html", str(missing)).line
    assert line == f"claude-jobs: cannot write {missing}: No such file or directory"
    assert "Is a directory" in run("report", *WEEK, "--html", str(tmp_path)).line


def test_without_the_extra_the_page_is_refused_and_the_figures_are_not(
    run: Run,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vl_convert", None)
        assert "pip install 'claude-jobs[report]'" in run("report", *WEEK, "--html", "r.html").line
        assert run("report", *WEEK).code == 0
