"""Traffic is cut as it was asked for, and a change moves nobody whom it need not move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.allocation import POINTS, Allocation, parse_weights, percent_of, point_of
from worker.errors import InvalidInput

VERSIONS = ("1.0", "1.1", "1.2", "2.0")


@st.composite
def shares(draw: st.DrawFn) -> dict[str, int]:
    cuts = sorted(draw(st.lists(st.integers(0, POINTS), min_size=3, max_size=3)))
    parts = [b - a for a, b in zip([0, *cuts], [*cuts, POINTS], strict=True)]
    return {version: part for version, part in zip(VERSIONS, parts, strict=True) if part}


def versions(allocation: Allocation) -> list[str]:
    return [allocation.version_at(point) for point in range(POINTS)]


@given(before=shares(), after=shares())
def test_only_the_shifted_share_moves(before: dict[str, int], after: dict[str, int]) -> None:
    first = Allocation.all_to("1.0").changed_to(before)
    second = first.changed_to(after)

    assert first.shares() == before
    assert second.shares() == after
    moved = sum(a != b for a, b in zip(versions(first), versions(second), strict=True))
    assert moved == sum(max(0, points - before.get(name, 0)) for name, points in after.items())


@given(history=st.lists(shares(), min_size=1, max_size=6))
def test_segments_cover_the_line_without_a_gap(history: list[dict[str, int]]) -> None:
    allocation = Allocation.all_to("1.0")
    for each in history:
        allocation = allocation.changed_to(each)

    ends = [0, *(segment.end for segment in allocation.segments)]
    assert [segment.start for segment in allocation.segments] == ends[:-1]
    assert ends[-1] == POINTS
    assert Allocation.from_rows([list(segment) for segment in allocation.segments]) == allocation


def test_users_are_spread_evenly_and_differently_for_each_prompt() -> None:
    half = POINTS // 2
    low = {p: {n for n in range(10_000) if point_of(p, f"user-{n}") < half} for p in ("a", "b")}

    assert all(4_800 < len(users) < 5_200 for users in low.values())
    assert 2_300 < len(low["a"] & low["b"]) < 2_700


def test_a_user_stays_at_the_same_point_for_ever() -> None:
    # Written down: users would be given another version if the hash were ever changed.
    assert [point_of("classify_ticket", who) for who in ("u1", "u2", "u3")] == [5466, 292, 8683]


def test_weights_are_percentages() -> None:
    assert parse_weights(["1.1"]) == {"1.1": POINTS}
    assert parse_weights(["1.1=90", "1.2=10"]) == {"1.1": 9000, "1.2": 1000}
    assert parse_weights(["1=33.33", "2=66.67"]) == {"1": 3333, "2": 6667}
    assert parse_weights(["1.1=100", "1.2=0"]) == {"1.1": POINTS}
    assert Counter(map(percent_of, (0, 1, 1050, 3333, POINTS))) == Counter(
        ["0", "0.01", "10.5", "33.33", "100"]
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["1.1=10"], "the shares add up to 10 %, not to 100 %"),
        (["1.1=60", "1.2=60"], "the shares add up to 120 %, not to 100 %"),
        (["1.1", "1.2=10"], "1.1 has no share: write 1.1=PERCENT, as in 1.1=90"),
        (["1.1=50", "1.1=50"], "1.1 is named twice"),
        (["1.1=x", "1.2=1"], "1.1=x: a share is a percentage from 0 to 100"),
        (["1.1=-5", "1.2=105"], "1.1=-5: a share is a percentage from 0 to 100"),
        (["1.1=0.001", "1.2=99.999"], "1.1=0.001: a share is a percentage"),
        (["1.1=nan", "1.2=1"], "1.1=nan: a share is a percentage"),
        (["1.1=inf", "1.2=1"], "1.1=inf: a share is a percentage"),
    ],
)
def test_a_malformed_share_is_named(arguments: list[str], problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_weights(arguments)

    assert str(caught.value).startswith(problem)
