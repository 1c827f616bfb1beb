from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.streams.entries import Entry, Kind, Position, parse_position
from worker.streams.view import StreamEvent, View


def entry(position: str, kind: Kind, text: str = "", attempt: int = 1) -> Entry:
    parsed = parse_position(position)
    assert parsed is not None
    return Entry(parsed, kind, attempt, text)


FIRST = [entry("7-0", "begin"), entry("7-1", "delta", "ab"), entry("7-2", "delta", "cd")]
SECOND = [entry("9-0", "begin", attempt=2), entry("9-1", "delta", "xy", attempt=2)]


def told(events: list[StreamEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in events]


def test_the_first_call_begins_without_a_word_and_neighbouring_pieces_are_one() -> None:
    (event,) = View().take(FIRST)

    assert event == StreamEvent("7-2", "delta", "abcd", 1)


def test_a_new_call_tells_those_with_text_to_clear_and_nobody_else() -> None:
    early, late = View(), View()
    early.take(FIRST)

    assert told(early.take(SECOND)) == [("retrying", "Claude is asked again"), ("delta", "xy")]
    assert told(late.take(SECOND)) == [("delta", "xy")]


def test_a_reason_is_told_once_and_even_to_those_who_come_late() -> None:
    failed = [entry("7-3", "retrying", "overloaded")]
    early, late = View(), View()
    early.take(FIRST)

    assert told(early.take([*failed, *SECOND])) == [("retrying", "overloaded"), ("delta", "xy")]
    assert told(late.take([*failed, *SECOND])) == [("retrying", "overloaded"), ("delta", "xy")]


def test_who_resumes_gets_what_follows_and_nothing_twice() -> None:
    replayed: list[str] = []
    view = View("7-1", replayed=replayed.append)

    assert told(view.take(FIRST)) == [("delta", "cd")]
    assert replayed == ["ab"]


def test_who_resumes_in_a_stream_that_began_anew_clears_first() -> None:
    assert told(View("7-1").take(SECOND)) == [
        ("retrying", "Claude is asked again"),
        ("delta", "xy"),
    ]


@pytest.mark.parametrize(
    "nonsense", ["", "-", "7", "7-", "-1", "a-b", "٣-1", "7-1-2", "9" * 50 + "-1"]
)
def test_who_resumes_after_nonsense_clears_and_gets_everything(nonsense: str) -> None:
    assert parse_position(nonsense) is None
    assert told(View(nonsense).take(FIRST)) == [
        ("retrying", "Claude is asked again"),
        ("delta", "abcd"),
    ]


def test_text_with_a_gap_is_cleared_and_not_shown_any_more() -> None:
    view = View()
    view.take(FIRST)

    assert told(view.take([entry("7-4", "delta", "gh")])) == [
        ("retrying", "part of the stream is gone")
    ]
    assert told(view.take([entry("7-5", "delta", "ij")])) == []
    assert told(view.take(SECOND)) == [("delta", "xy")]


def test_a_stream_without_its_beginning_is_not_shown() -> None:
    assert told(View().take([entry("7-3", "delta", "cd")])) == []


def test_done_is_told_to_everybody_and_more_can_follow_once_the_job_was_requeued() -> None:
    view = View()

    assert told(view.take([*FIRST, entry("7-3", "done"), *SECOND])) == [
        ("delta", "abcd"),
        ("done", ""),
        ("retrying", "Claude is asked again"),
        ("delta", "xy"),
    ]


CALLS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdef"), max_size=6), st.booleans()), max_size=4
)


@given(CALLS, st.data())
def test_whatever_happens_a_reader_has_the_last_calls_text_so_far(
    calls: list[tuple[list[str], bool]], data: Any
) -> None:
    """Its connection may be lost at any moment, and what is replaced may never be read."""
    ids = count(1)
    text, resume = "", None
    view = View()
    for pieces, announced in calls:
        call = next(ids)
        stream = [entry(f"{call}-0", "begin")]
        stream += [entry(f"{call}-{n}", "delta", piece) for n, piece in enumerate(pieces, start=1)]
        if announced:
            # Everything before it goes.
            stream = [Entry(Position(call, len(stream)), "retrying", 1, "overloaded")]
        cut = data.draw(st.integers(0, len(stream)))
        for part in (stream[:cut], stream[cut:]):
            if data.draw(st.booleans()):
                # Reconnected: whoever serves it now reads the stream from its beginning.
                view, part = View(resume), stream if part is stream[cut:] else stream[:cut] + part  # noqa: PLW2901
            for event in view.take(part):
                text = "" if event.kind == "retrying" else text + event.text
                resume = event.id
    if calls:
        pieces, announced = calls[-1]
        assert text == ("" if announced else "".join(pieces))
