from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.checks import in_words, storable, unstorable

TEXTS = st.text(st.characters(), max_size=20)  # lone surrogates and NUL included
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_made_storable_is_storable(value: Any) -> None:
    assert unstorable(storable(value)) is None
    json.dumps(storable(value), ensure_ascii=False, allow_nan=False).encode()


@given(VALUES)
def test_what_is_storable_is_left_as_it_is(value: Any) -> None:
    if unstorable(value) is None:
        assert storable(value) == value


@given(TEXTS)
def test_a_problem_is_found_wherever_it_stands(text: str) -> None:
    broken = text + "\0"
    bare = unstorable(broken)

    assert bare is not None
    for value in ([broken], {"a": broken}, {broken: 1}, {"a": [{"b": (1, broken)}]}):
        assert unstorable(value) is not None


@given(VALUES)
def test_a_message_can_itself_be_stored(value: Any) -> None:
    message = unstorable(value)

    assert message is None or unstorable(message) is None


def test_depth_has_an_end() -> None:
    value: list[Any] = []
    value.append(value)

    assert unstorable({"a": value}) == "a: nested more than 150 levels deep"
    assert unstorable(storable(value)) is None


def test_many_problems_are_counted() -> None:
    problems = [{"path": str(number), "problem": "wrong"} for number in range(7)]

    assert in_words(problems).endswith("4: wrong; and 2 more")
