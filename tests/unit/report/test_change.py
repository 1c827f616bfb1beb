"""The decomposition of a change: exact in any case, right where it can be told by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weeks import PRICES, week
from worker.report.change import Cause, Group, by_kind, explain
from worker.storage.figures import Figures

A, B = ("t", "p", "1.0"), ("t", "p", "1.1")

Groups = dict[Group, dict[str, Figures]]


def cost(groups: Groups) -> Fraction:
    return sum(
        (Fraction(each.cost_usd) for models in groups.values() for each in models.values()),
        Fraction(0),
    )


def found(before: Groups, now: Groups) -> list[Cause]:
    causes = explain(before, now, PRICES.get)
    assert sum((each.usd for each in causes), Fraction(0)) == cost(now) - cost(before)
    assert sum(by_kind(causes).values(), Fraction(0)) == cost(now) - cost(before)
    return causes


def effects(before: Groups, now: Groups) -> dict[str, float]:
    return {kind: round(float(usd), 6) for kind, usd in by_kind(found(before, now)).items()}


def test_more_jobs_of_the_same_kind_are_volume_and_nothing_else() -> None:
    assert effects({A: week(1000, 200)}, {A: week(1500, 200)}) == {"volume": 1.0}


def test_a_version_that_replaces_another_and_writes_twice_as_much() -> None:
    (cause,) = found({A: week(1000, 200)}, {B: week(1000, 400)})

    assert cause.group == B
    assert cause.instead_of == "1.0"
    assert {k: float(v) for k, v in cause.effects.items() if v} == {"output": 1.0}


def test_a_version_in_the_middle_of_the_week_is_charged_with_its_own_jobs_only() -> None:
    causes = found({A: week(1000, 200)}, {A: week(400, 200), B: week(600, 400)})

    assert [(cause.group, float(cause.usd)) for cause in causes] == [(B, 0.6)]


def test_a_dearer_version_of_last_week_that_grew_is_a_matter_of_the_mix() -> None:
    before = {A: week(900, 200), B: week(100, 400)}
    now = {A: week(100, 200), B: week(900, 400)}

    (cause,) = found(before, now)

    assert (cause.group, cause.instead_of) == (B, "1.0")
    assert {k: float(v) for k, v in cause.effects.items() if v} == {"mix": 0.8}


@pytest.mark.parametrize(
    ("changed", "kind", "usd"),
    [
        ({"reading": 2000}, "input", 1.0),
        ({"replies": 1500}, "calls", 1.0),
        ({"model": "opus"}, "price", 8.0),
        ({"hits": 500}, "cache", -1.0),
        ({"batch": True}, "batch", -1.0),
        ({"prompt_cache": "0.5"}, "prompt_cache", -0.5),
        ({"prompt_cache": "-0.25"}, "prompt_cache", 0.25),
    ],
)
def test_each_reason_is_told_from_the_others(
    changed: dict[str, object], kind: str, usd: float
) -> None:
    assert effects({A: week(1000, 200)}, {A: week(1000, 200, **changed)}) == {kind: usd}  # type: ignore[arg-type]


def test_longer_replies_cost_half_in_batches_and_nothing_where_they_are_cached() -> None:
    assert effects({A: week(1000, 200, batch=True)}, {A: week(1000, 400, batch=True)}) == {
        "output": 0.5
    }
    assert effects({A: week(1000, 200, hits=500)}, {A: week(1000, 400, hits=500)}) == {
        "output": 0.5
    }


def test_a_task_that_is_new_and_one_that_is_gone() -> None:
    gone, new = ("old", "p", "1.0"), ("new", "p", "1.0")

    causes = found({gone: week(1000, 200)}, {new: week(2000, 200)})

    assert [(cause.task, float(cause.usd)) for cause in causes] == [("new", 4.0), ("old", -2.0)]
    assert all(cause.group is None for cause in causes)


def test_calls_of_a_version_that_began_no_job_are_not_lost() -> None:
    astray = {"haiku": replace(week(100, 200)["haiku"], jobs=0)}

    causes = found({A: week(1000, 200)}, {A: week(1000, 200), B: astray})

    assert [(c.group, c.effects) for c in causes] == [(None, {"other": Fraction(1, 5)})]


def test_an_unknown_price_list_leaves_one_unexplained_difference() -> None:
    before, now = ({A: {"new-model": week(1000, n)["haiku"]}} for n in (200, 400))
    assert effects(before, now) == {"other": 1.0}
    # Nor does half of a group's tokens say anything about the group.
    mixed = [{A: week(1000, 200) | each[A]} for each in (before, now)]
    assert effects(*mixed) == {"other": 1.0}


counts, money = st.integers(0, 10**6), st.decimals(0, 10**4, places=8)


@st.composite
def figures(draw: st.DrawFn) -> Figures:
    parts = [draw(money) for _ in range(4)]
    # A prompt cache may have cost more than it saved.
    prompt_cache = draw(st.decimals(-(10**3), 10**4, places=8))
    batched = draw(money)
    return Figures(
        jobs=draw(counts),
        replies=draw(counts),
        cache_hits=draw(st.integers(0, 100)),
        input_tokens=draw(counts),
        output_tokens=draw(counts),
        cost_usd=parts[0] + batched,
        full_cost_usd=parts[0] + 2 * batched + parts[1] + parts[2] + prompt_cache,
        saved_by_prompt_cache_usd=prompt_cache,
        saved_by_batch_usd=batched,
        saved_by_cache_usd=parts[1],
        saved_by_coalescing_usd=parts[2],
    )


groups = st.dictionaries(
    st.tuples(st.sampled_from("tu"), st.just("p"), st.sampled_from(["1.0", "1.1", "1.2", "1.3"])),
    st.dictionaries(st.sampled_from(["haiku", "opus", "unknown"]), figures(), min_size=1),
)


@given(groups, groups)
def test_the_parts_add_up_to_the_change_exactly(before: Groups, now: Groups) -> None:
    found(before, now)


def test_two_hundred_versions_are_no_trouble() -> None:
    before = {("t", "p", f"1.{n}"): week(100 + n, 100 + n) for n in range(200)}
    now = {("t", "p", f"1.{n}"): week(300 - n, 90 + 2 * n) for n in range(100, 300)}
    assert len(found(before, now)) > 150
