"""What explains a change, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.weeks import PRICES, week
from worker.report.change import Group, explain
from worker.report.period import Period
from worker.report.sentences import Busiest, Release, explain_cause
from worker.storage.figures import Figures

PERIOD = Period(datetime(2026, 11, 16, tzinfo=UTC).date())
OLD, NEW = ("p", "p", "1.0"), ("p", "p", "1.1")

Groups = dict[Group, dict[str, Figures]]


def said(
    before: Groups, now: Groups, *releases: Release, busiest: dict[str, Busiest] | None = None
) -> str:
    """The sentence for the largest cause."""
    cause = explain(before, now, PRICES.get)[0]
    usd = Decimal(round(cause.usd, 2).numerator)
    return explain_cause(cause, usd, PERIOD, releases, busiest or {}).sentence


def release(**changed: Any) -> Release:
    values: dict[str, Any] = {
        "prompt": "p",
        "kind": "release",
        "weights": {"1.1": 100},
        "weights_before": {"1.0": 100},
        "released_by": "ana",
        "reason": "",
        "created_at": datetime(2026, 11, 17, 9, tzinfo=UTC),
    }
    return Release(**values | changed)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"output": 380},
            "writes 1.9 times as many output tokens (380 a reply, 200 the week before).",
        ),
        ({"output": 220}, "writes 10 % more output tokens (220 a reply, 200 the week before)."),
        ({"output": 100}, "writes 50 % fewer output tokens (100 a reply, 200 the week before)."),
        ({"reading": 1100}, "reads 10 % more input tokens (1,100 a reply, 1,000 the week before)."),
        (
            {"replies": 1310},
            "takes 1.31 replies a job, 1.00 the week before, with repairs and retries.",
        ),
        (
            {"model": "opus"},
            "pays 5.0 times as much for a token, as it asks opus instead of haiku.",
        ),
        ({"hits": 200}, "saved 20 % of its price by the result cache, 0 % the week before."),
        ({"batch": True}, "saved 50 % of its price by batches, 0 % the week before."),
        (
            {"prompt_cache": "-0.5"},
            "lost $0.0005 a job by the prompt cache, saved $0.0000 the week before.",
        ),
    ],
)
def test_a_version_that_is_not_what_it_was(changed: dict[str, Any], sentence: str) -> None:
    before = {OLD: week(1000, 200)}
    now = {OLD: week(1000, **{"output": 200} | changed)}

    assert said(before, now) == f"p/1.0 {sentence}"


def test_a_release_is_named_with_its_day_its_author_and_its_reason() -> None:
    before, now = {OLD: week(1000, 200)}, {NEW: week(1000, 400)}
    writes = "writes 2.0 times as many output tokens (400 a reply, 200 with 1.0)."

    assert said(before, now) == f"p/1.1 {writes}"
    assert said(before, now, release()) == f"p/1.1, released on Tuesday by ana, {writes}"
    partly = release(weights={"1.1": 12.5}, reason=" shorter ", released_by="ben")
    assert said(before, now, partly) == (
        f"p/1.1, released to 12.5 % of the users on Tuesday by ben (“shorter”), {writes}"
    )
    earlier = release(created_at=datetime(2026, 11, 12, tzinfo=UTC), kind="rollback")
    assert said(before, now, earlier) == f"p/1.1, brought back on 12 November by ana, {writes}"
    # The newest that gave it more counts; one of another prompt, or that gave it less, does not.
    less = release(weights={"1.1": 10}, weights_before={"1.1": 100}, released_by="eve")
    others = (release(released_by="dan"), release(prompt="q"), less)
    assert "by dan," in said(before, now, earlier, *others)


def test_a_version_that_lost_its_share_is_not_explained_by_a_release() -> None:
    before = {OLD: week(500, 200), NEW: week(500, 200)}
    now = {OLD: week(900, 200), NEW: week(100, 4000)}

    assert said(before, now, release()).startswith("p/1.1 writes 20.0 times as many")


def test_a_share_that_grew_of_a_version_that_costs_more() -> None:
    before = {OLD: week(900, 200), NEW: week(100, 400)}
    now = {OLD: week(100, 200), NEW: week(900, 400)}

    assert said(before, now, release()) == (
        "p/1.1, released on Tuesday by ana, served 90 % of the jobs, 10 % the week before, "
        "instead of 1.0, at another price a job."
    )


def test_what_works_against_it_is_told_where_it_is_much() -> None:
    before = {OLD: week(1000, 200)}
    now = {OLD: week(1000, 800, batch=True)}

    assert said(before, now) == (
        "p/1.0 writes 4.0 times as many output tokens (800 a reply, 200 the week before); against "
        "that, it saved 50 % of its price by batches, 0 % the week before."
    )


@pytest.mark.parametrize(
    ("before", "now", "more", "sentence"),
    [
        (1000, 1200, 150, "p: 20 % more jobs (1,200, 1,000 the week before), ann alone 150 more."),
        (1000, 1200, 50, "p: 20 % more jobs (1,200, 1,000 the week before)."),
        (1000, 1200, -900, "p: 20 % more jobs (1,200, 1,000 the week before)."),
        (1000, 500, -500, "p: 50 % fewer jobs (500, 1,000 the week before), ann alone 500 fewer."),
        (1000, 2500, 1, "p: 2.5 times as many jobs (2,500, 1,000 the week before)."),
        (0, 5, 5, "p is new: 5 jobs."),
        (5, 0, -5, "p had no jobs, 5 the week before."),
    ],
)
def test_more_and_fewer_jobs(before: int, now: int, more: int, sentence: str) -> None:
    weeks = [{OLD: week(jobs, 200)} if jobs else {} for jobs in (before, now)]
    assert said(*weeks, busiest={"p": Busiest("ann", more)}) == sentence


def test_names_without_end_are_cut() -> None:
    endless = "x" * 5000
    sentence = said({}, {(endless, "p", "1.0"): week(1, 200)})
    assert len(sentence) < 150
