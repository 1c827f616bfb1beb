"""Marking the words that differ."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.review.difference import Span, compare_texts


def marked(spans: tuple[Span, ...]) -> list[str]:
    return [span.text for span in spans if span.differs]


@pytest.mark.parametrize(
    ("left", "right", "at_left", "at_right"),
    [
        ("the cat sat on the mat", "the dog sat on the mat", ["cat"], ["dog"]),
        ("one two three four five", "one two three four", ["five"], []),
        ("It ends here.", "It ends here!", ["."], ["!"]),
        ("same", "same", [], []),
        ("", "something", [], ["something"]),
        ("吾輩は猫である", "吾輩は犬である", ["猫"], ["犬"]),
        # "of the" between two changes is chance.
        ("pay one of the big fees here and now", "pay two of the small fees here and now",
         ["one of the big"], ["two of the small"]),
    ],
)  # fmt: skip
def test_marks_the_words_that_only_one_text_has(
    left: str, right: str, at_left: list[str], at_right: list[str]
) -> None:
    found = compare_texts(left, right)

    assert not found.reworded
    assert marked(found.left) == at_left
    assert marked(found.right) == at_right


def test_texts_that_share_little_are_called_reworded_and_not_marked_all_over() -> None:
    found = compare_texts(
        "The treaty ends all tariffs within ten years.",
        "Customs duties disappear, says the agreement, by 1870 at the latest.",
    )

    assert found.reworded
    assert marked(found.left) == marked(found.right) == []


@given(st.text(max_size=300), st.text(max_size=300))
def test_nothing_of_a_text_is_lost(left: str, right: str) -> None:
    found = compare_texts(left, right)

    assert "".join(span.text for span in found.left) == left
    assert "".join(span.text for span in found.right) == right


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a b " * 25_000, "b a " * 25_000),
        (". " * 50_000, "! " * 50_000),
        ("x" * 100_000, "y" * 100_000),
        ("a " * 999, "a b " * 499),
        ("a b c d " * 250, "d c b a " * 250),
    ],
    ids=["words", "sentences", "one word", "repetition", "reversed"],
)
def test_hostile_texts_are_compared_at_once(left: str, right: str) -> None:
    started = time.process_time()
    compare_texts(left, right)

    assert time.process_time() - started < 2
