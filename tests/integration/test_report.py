"""`claude-jobs report`: figures that agree with the rows, and edges of every kind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from sandbox import history
from tests.integration.command import Run
from tests.usage_rows import MONDAY_BEFORE, TUESDAY, call, hit, job
from worker.report.collect import collect
from worker.report.period import Period
from worker.report.weekly import WeeklyReview
from worker.storage.engine import build_engine, transaction

WEEK = ("--weekly", "--week", "2026-W47")
PERIOD = Period(date(2026, 11, 16))
# The price list is this process's, by its settings.
pytestmark = pytest.mark.usefixtures("producer")

HOSTILE = "\x1b[2J<img src=x onerror=alert(1)>[bold]\u202e{{ 7 * 7 }}"


@pytest.fixture
def sample(engine: Engine) -> None:
    """Four weeks, the last of which is the one that tests review."""
    with transaction(engine) as connection:
        history.fill(connection, PERIOD.start, scale=0.05)


def review(engine: Engine, period: Period = PERIOD) -> WeeklyReview:
    with transaction(engine) as connection:
        return collect(connection, period)


def read(run: Run, *arguments: str) -> Any:
    result = run("report", *(arguments or WEEK), "--json")
    assert result.code == 0, result
    return json.loads(result.out)


def test_an_empty_database_is_a_quiet_week(run: Run, tmp_path: Path) -> None:
    result = run("report", *WEEK)

    assert result.code == 0
    assert "Nothing was asked and nothing was spent." in result.out
    assert result.out.count("\n") == 2
    assert read(run)["by"]["task"] == []
    assert run("report", *WEEK, "--html", "r.html").code == 0
    assert "Nothing was asked" in (tmp_path / "r.html").read_text()


def test_one_job_in_the_first_week(run: Run, engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, job_id=job(connection, 1))

    result = run("report", *WEEK)

    assert result.code == 0
    assert "$0.0002 spent; there is no week before to compare it with." in result.out
    assert "What changed" not in result.out
    assert "00000000-0000-0000-0000-000000000001" in result.out
    found = read(run)
    assert (found["compared"], found["causes"]) == (False, [])
    assert run("report", *WEEK, "--html", "r.html").code == 0


def test_every_breakdown_adds_up_to_the_ledger(run: Run, engine: Engine, sample: None) -> None:
    with transaction(engine) as connection:
        now, before = (
            connection.execute(
                text("SELECT sum(cost_usd) FROM usage WHERE created_at >= :a AND created_at < :b"),
                {"a": period.since, "b": period.until},
            ).scalar_one()
            for period in (PERIOD, PERIOD.before)
        )

    found = read(run)

    assert (Decimal(found["now"]["cost_usd"]), Decimal(found["before"]["cost_usd"])) == (
        now,
        before,
    )
    assert set(found["by"]) == {"task", "prompt_version", "model", "user"}
    for lines in found["by"].values():
        assert sum(Decimal(line["now"]["cost_usd"]) for line in lines) == now
        assert sum(Decimal(line["before"]["cost_usd"]) for line in lines) == before
        assert sum(line["now"]["jobs"] for line in lines) == found["now"]["jobs"]
    assert sum(Decimal(day["cost_usd"]) for day in found["days"]) == now
    assert Decimal(found["weeks"][-1]["cost_usd"]) == now
    saved = [Decimal(value) for name, value in found["now"].items() if name.startswith("saved_by")]
    assert sum(saved) == Decimal(found["now"]["full_cost_usd"]) - now


def test_what_is_shown_adds_up_to_the_last_place(engine: Engine, sample: None) -> None:
    found = review(engine)

    for lines in found.lines.values():
        assert sum(line.shown for line in lines) == found.cost
        assert sum(line.shown_before for line in lines) == found.cost_before
    told = sum((each.usd for each in found.explanations), found.unexplained)
    assert told == sum(usd for _, usd in found.kinds) == found.change != 0


def test_the_release_that_explains_the_change_is_named(run: Run, sample: None) -> None:
    cause = read(run)["causes"][0]

    assert cause["what"] == "summarize_text/1.3"
    assert cause["release"]["released_by"] == "ana"
    assert cause["sentence"].startswith(
        "summarize_text/1.3, released on Tuesday by ana "
        "(“quote the passage behind every key point”), writes 2."
    )
    assert " times as many output tokens (" in cause["sentence"]
    out = run("report", *WEEK).out
    assert cause["sentence"] in out
    assert "lower max_tokens of classify_ticket/1.1 from 1,024 to 256" in out


def test_a_rollback_is_told_and_more_jobs_of_one_user(run: Run, engine: Engine) -> None:
    release = text("""
        INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation, released_by, reason,
                                     created_at)
        VALUES ('summarize_text', :kind, cast(:weights AS jsonb), '{}', '[["1.0", 0, 10000]]',
                :by, :reason, :at)
    """)
    with transaction(engine) as connection:
        for kind, weights, by, reason, at in (
            ("release", '{"1.1": 100}', "ana", "", MONDAY_BEFORE),
            ("automatic_rollback", '{"1.0": 80, "1.1": 20}', "claude-jobs", "too long", TUESDAY),
        ):
            values = {"kind": kind, "weights": weights, "by": by, "reason": reason, "at": at}
            connection.execute(release, values)
        call(connection, 100, prompt_version="1.1", output_tokens=400, cost_usd="0.3",
             full_cost_usd="0.3", created_at=MONDAY_BEFORE)  # fmt: skip
        call(connection, 100, cost_usd="0.2", full_cost_usd="0.2")
        call(connection, 100, cost_usd="0.2", full_cost_usd="0.2", user_id="bob")

    told = [(cause["usd"], cause["sentence"]) for cause in read(run)["causes"]]

    assert told[0] == (
        "30.00",
        "summarize_text: 2.0 times as many jobs (200, 100 the week before), bob alone 100 more.",
    )
    usd, sentence = told[1]
    assert usd == "-20.00"
    assert sentence.startswith(
        "summarize_text/1.0, brought back automatically to 80 % of the users on Tuesday by "
        "claude-jobs (“too long”), "
    )


def test_calls_without_a_price_are_named(run: Run, engine: Engine) -> None:
    unknown = {"cost_usd": None, "full_cost_usd": None}
    with transaction(engine) as connection:
        call(connection, 3, model="claude-new", **unknown)
        call(connection, 2, model="claude-newer", **unknown)
        call(connection, full_cost_usd=None)

    out = run("report", *WEEK).out
    for named in ("summarize_text", "claude-new", "ann"):
        assert re.search(rf"^{named} \([35] unpriced\) +\$", out, re.MULTILINE), named
    for notes in (out, " ".join(read(run)["notes"])):
        assert "5 calls have no price" in notes
        assert "(claude-new: 3, claude-newer: 2)" in notes
        assert "1 call has a cost but no full price" in notes


def test_a_prompt_cache_that_nobody_read_is_a_loss(run: Run, engine: Engine) -> None:
    with transaction(engine) as connection:
        call(connection, 10, cost_usd="1.25", full_cost_usd="1")
        call(connection, 10, cost_usd="1", full_cost_usd="1", created_at=MONDAY_BEFORE)

    found = read(run)
    assert found["now"]["saved_by_prompt_cache_usd"] == "-2.50000000"
    assert found["effects"] == {"prompt_cache": "2.50"}
    out = run("report", *WEEK).out
    assert "−$2.50" in out
    assert "-25" not in out
    assert run("report", *WEEK, "--html", "r.html").code == 0


def test_a_week_of_hits_only(run: Run, engine: Engine) -> None:
    with transaction(engine) as connection:
        hit(connection, "2")
        hit(connection, "3", coalesced=True)

    found = read(run)
    assert (found["now"]["jobs"], found["now"]["calls"]) == (2, 0)
    assert found["now"]["cost_usd"] == "0.00000000"
    assert found["now"]["saved_by_cache_usd"] == "2.00000000"
    assert run("report", *WEEK, "--html", "r.html").code == 0


def test_figures_are_of_one_moment(engine: Engine) -> None:
    """Calls that end while the review is being read are in none of its figures."""
    other = build_engine(engine.url.render_as_string(hide_password=False))
    with transaction(engine) as connection:
        call(connection, 10, cost_usd="1")

    with engine.connect() as connection:

        @event.listens_for(connection, "after_cursor_execute")
        def meanwhile(*_: Any) -> None:
            with transaction(other) as writing:
                call(writing, cost_usd="1", user_id="bob")

        with connection.begin():
            found = collect(connection, PERIOD)
    other.dispose()

    assert found.now.cost_usd >= 10
    for lines in found.lines.values():
        assert sum(line.now.cost_usd for line in lines) == found.now.cost_usd


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


def test_a_narrow_terminal_cuts_no_amount(environment: dict[str, str], sample: None) -> None:
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
