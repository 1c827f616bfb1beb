from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.streams.partial import NOTHING, PartialJson

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def values(pieces: list[str] | str) -> list[Any]:
    partial = PartialJson()
    return [value for piece in pieces if (value := partial.feed(piece)) is not NOTHING]


def test_a_short_text_is_read_at_every_piece_and_told_when_it_changed() -> None:
    assert values(['{"a"', ': "x', 'y", ', '"b": [1', ", 2", "]", "}"]) == [
        {},
        {"a": "x"},
        {"a": "xy"},
        {"a": "xy", "b": [1]},
        {"a": "xy", "b": [1, 2]},
    ]


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_however_it_is_cut_the_whole_text_gives_the_whole_value(value: Any, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)

    # It may be behind by a 32nd of the text.
    assert values([*text, " " * (len(text) // 16 + 2)])[-1] == value
    assert values([text]) == [value]


def test_what_stands_around_the_object_is_ignored() -> None:
    assert values(["Here ", "you are:\n```json\n", '{"a": 1}', "\n```\nDone"]) == [{"a": 1}]


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{nope", '{"a": NaN}', '{"a": ' + "[" * 5000, '{"a": "\x00"}', "\ud800"]
)
def test_what_is_no_json_gives_nothing_and_costs_no_more(text: str) -> None:
    partial = PartialJson()
    given = [partial.feed(piece) for piece in (*text, *"more of it")]

    assert all(value is NOTHING or value in ({}, {"a": ""}) or "a" in value for value in given)
    assert partial.parsed <= 32 * (2 * len(text) + 10)


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_the_work_grows_with_the_text_and_not_with_its_square(size: int) -> None:
    text = json.dumps({"items": ["x" * 7] * (size // 11)})
    partial = PartialJson()
    told = [partial.feed(text[at : at + 4]) for at in range(0, len(text), 4)]

    assert partial.parsed <= 32 * len(text)
    # Still often enough to see it grow: at its end, at every 32nd of it.
    assert sum(value is not NOTHING for value in told) > 64


def test_a_text_that_begins_anew_is_a_new_one() -> None:
    partial = PartialJson()
    partial.feed('{"a": 1')
    partial.clear()

    assert partial.feed('{"a": 1') == {"a": 1}
