"""Whatever arrives is read: no text and no body raises, and none takes more than linear time.

Time is not measured. The calls that Python makes are counted, for a text and for one twice as long;
and long ones are read, which would take anything quadratic longer than a test may hang.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.test_reading import Answer, read
from worker.claude.reply import MalformedReply, Reply, Tokens, read_message
from worker.engine.reading import Empty, Invalid, Salvaged, Valid, read_reply

#: Characters. The longest reply of any model is two or three times as long.
LONG = 200_000
#: Of the process, not by the clock: a guard against hanging for ever, not a measurement.
CPU_SECONDS = 60

#: Parts of hostile texts: repeated, they are as long as one likes.
PARTS = {
    "open lists": "[",
    "open objects": '{"a":',
    "braces": "{}",
    "fences": "```json\n",
    "backticks": "`",
    "fences that never begin": "```a ",
    "blanks": " \t",
    "digits": "1",
    "NUL characters": "\\u0000",
    "backslashes": "\\",
    "halves of surrogate pairs": "\\ud800",
    "lone surrogates": "\ud800",
    "NaN": "NaN,",
    "infinite numbers": "1e999999,",
    "duplicate keys": '"answer": "x",',
    "values in capitals": '{"text": "t", "priority": "HIGH"},',
}

#: Where they stand.
TEXTS = {
    "alone": "%s",
    "in an object": '{%s"answer": "yes"}',
    "in a string": '{"answer": "%s"}',
    "as a number": '{"answer": "x", "mood": 1%s}',
    "in a list": '{"answer": "x", "mood": "CALM", "points": [%s{"text": "t", "priority": "low"}]}',
    "in a fence": '```json\n{"answer": "x", "points": [%s{"text": "t", "priority": "low"}]}\n```',
    "in prose": '%s {"answer": "yes"} %s',
    "before a fence": '%s```json\n{"answer": "yes"}\n```',
}
BODIES = {
    "alone": "%s",
    "around a message": '{%s"model": "m", "content": [], "usage": {}}',
    "in a text": '{"model": "m", "content": [{"type": "text", "text": "%s"}], "usage": {}}',
    "as content": '{"model": "m", "content": [%s{"type": "text", "text": "t"}], "usage": {}}',
    "as a count": '{"model": "m", "content": [], "usage": {"input_tokens": 1%s}}',
    "in an unknown field": '{"model": "m", "content": [], "usage": {}, "new": [%s1]}',
}


def filled(frame: str, part: str, length: int) -> str:
    """`frame` with as many of `part` as make it about `length` characters long."""
    return frame.replace("%s", part * (length // len(part)))


def read_body(body: bytes) -> Reply | None:
    """What `read_message` makes of a body; None if it refuses it, in the one way that it may."""
    try:
        return read_message(body, headers={}, latency_ms=1)
    except MalformedReply:
        return None


def calls(function: Callable[..., Any], *arguments: Any) -> int:
    """How many calls and returns, of Python and of C, the interpreter counts meanwhile."""
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    sys.setprofile(count)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return counted


@pytest.fixture
def bounded() -> Iterator[None]:
    """Ends a test that hangs."""

    def give_up(*_: object) -> NoReturn:
        raise AssertionError(f"not read in {CPU_SECONDS} seconds of CPU time")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("frame", TEXTS)
def test_a_lot_of_anything_is_read_as_a_text(frame: str, part: str) -> None:
    reading = read(filled(TEXTS[frame], PARTS[part], LONG))

    assert isinstance(reading, Valid | Salvaged | Invalid | Empty)
    if isinstance(reading, Invalid):
        assert 0 < len(reading.problems) <= 50
        assert len(json.dumps(reading.problems)) < 10_000


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("frame", BODIES)
def test_a_lot_of_anything_is_read_as_a_body(frame: str, part: str) -> None:
    read_body(filled(BODIES[frame], PARTS[part], LONG).encode(errors="surrogatepass"))


@pytest.mark.parametrize("part", PARTS)
def test_twice_the_text_is_at_most_twice_the_work(part: str) -> None:
    for frame in TEXTS.values():
        short, long = (calls(read, filled(frame, PARTS[part], size)) for size in (5000, 10_000))
        assert long <= 2.2 * short
    for frame in BODIES.values():
        bodies = [filled(frame, PARTS[part], size) for size in (5000, 10_000)]
        short, long = (calls(read_body, body.encode(errors="replace")) for body in bodies)
        assert long <= 2.2 * short


def test_the_work_of_a_list_of_problems_is_linear() -> None:
    def unfit(number: int) -> str:
        wrong = ",".join(f'"k{index}": {index}' for index in range(number))
        return f'{{{wrong}, "points": [{",".join(["1"] * number)}]}}'

    assert calls(read, unfit(2000)) <= 2.2 * calls(read, unfit(1000))
    assert isinstance(read(unfit(5000)), Invalid)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
#: Lone surrogates included: they are Python's, not Unicode's.
any_text = st.text(st.characters(exclude_categories=()))


@given(any_text | json_values.map(json.dumps) | json_values.map(lambda v: f"```json\n{v}\n```"))
def test_any_text_is_read(text: str) -> None:
    reading = read(text)
    assert isinstance(reading, Valid | Salvaged | Invalid | Empty)
    if isinstance(reading, Invalid):
        assert reading.problems


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "answer": any_text | json_values,
            "mood": st.sampled_from(["calm", "CALM", "Angry", "glad"]) | json_values,
            "points": st.lists(
                st.fixed_dictionaries(
                    {"text": any_text, "priority": st.sampled_from(["high", "LOW", "none"])}
                )
                | json_values,
                max_size=4,
            ),
            "best": json_values,
            "more": json_values,
        },
    )
)
def test_what_nearly_fits_is_read_and_what_is_accepted_can_be_stored(value: Any) -> None:
    text = json.dumps(value)
    reading = read(text)
    assert isinstance(reading, Valid | Salvaged | Invalid)
    if not isinstance(reading, Invalid):
        stored = reading.output.model_dump_json()
        assert Answer.model_validate_json(stored) == reading.output
        assert "\\u0000" not in stored


@given(st.binary() | any_text.map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_a_reply_or_refused(body: bytes) -> None:
    assert read_body(body) is None


@given(
    st.fixed_dictionaries(
        {
            "model": st.text() | json_values,
            "content": st.lists(
                st.fixed_dictionaries({"type": st.just("text"), "text": any_text})
                | st.fixed_dictionaries({"type": st.text()}, optional={"text": json_values})
                | json_values,
                max_size=4,
            )
            | json_values,
            "usage": st.dictionaries(
                st.sampled_from(
                    ["input_tokens", "output_tokens", "cache_creation", "output_tokens_details",
                     "cache_read_input_tokens", "service_tier"]
                ),
                st.integers() | json_values,
            )
            | json_values,
        },
        optional={
            "stop_reason": st.sampled_from(["end_turn", "refusal", "max_tokens"]) | json_values,
            "stop_details": st.dictionaries(st.just("category"), json_values) | json_values,
        },
    )
)  # fmt: skip
def test_anything_like_a_message_is_a_reply_or_refused(message: Any) -> None:
    reply = read_body(json.dumps(message).encode())
    if reply is not None:
        assert isinstance(reply.tokens, Tokens)
        read_reply(reply, Answer)


def test_of_duplicate_keys_the_last_one_counts() -> None:
    assert read('{"answer": "no", "answer": "yes"}') == Valid(Answer(answer="yes"))
    body = b'{"model": "a", "model": "b", "content": [], "usage": {}}'
    reply = read_body(body)
    assert reply is not None
    assert reply.model == "b"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1.5", "-0.5"])
def test_a_count_of_tokens_is_a_whole_number(number: str) -> None:
    body = f'{{"model": "m", "content": [], "usage": {{"input_tokens": {number}}}}}'
    assert read_body(body.encode()) is None
