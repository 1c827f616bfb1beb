"""`claude-jobs report`: figures that agree with the rows, and edges of every kind."""

from __future__ import annotations

import json
import re
from datetime import date
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


def test_a_week_that_cost_the_same_for_other_reasons_is_explained_all_the_same(
    run: Run, engine: Engine
) -> None:
    with transaction(engine) as connection:
        for task, now, before in (("more", 20, 10), ("less", 10, 20)):
            call(connection, now, task=task, cost_usd="1")
            call(connection, before, task=task, cost_usd="1", created_at=MONDAY_BEFORE)

    out = run("report", *WEEK).out

    assert "$30.00 spent, the same as the week before." in out
    assert "+$10.00  more: 2.0 times as many jobs (20, 10 the week before)" in out
    assert "−$10.00  less: 50 % fewer jobs (10, 20 the week before)" in out


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
