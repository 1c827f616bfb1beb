from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.claude.incoming import ErrorEvent, Incoming
from worker.claude.reply import MalformedReply, Tokens

HEADERS = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_1"}
USAGE = {
    "input_tokens": 3,
    "cache_read_input_tokens": 17,
    "cache_creation_input_tokens": 24,
    "cache_creation": {"ephemeral_5m_input_tokens": 11, "ephemeral_1h_input_tokens": 13},
    "output_tokens": 1,
}
START = {"type": "message_start", "message": {"model": "m", "content": [], "usage": USAGE}}
END = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    # As the API sends it: cumulative, and without the split by lifetime.
    "usage": {"output_tokens": 5, "cache_creation_input_tokens": None},
}
STOP = {"type": "message_stop"}


def delta(text: str) -> dict[str, Any]:
    piece = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": 0, "delta": piece}


def wire(*events: dict[str, Any], newline: str = "\n") -> bytes:
    lines = []
    for event in events:
        lines += [f"event: {event['type']}", f"data: {json.dumps(event)}", "", ""]
    return newline.join(lines[:-1]).encode() + newline.encode()


def incoming(*chunks: bytes) -> Incoming:
    message = Incoming()
    message.begin(HEADERS)
    for chunk in chunks:
        message.feed(chunk)
    return message


WHOLE = (START, delta('{"a":'), {"type": "ping"}, delta(" 1}"), END, STOP)


@given(st.lists(st.integers(0, 2000), max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_the_reply_is_the_same_wherever_the_stream_is_cut_into_chunks(
    cuts: list[int], newline: str
) -> None:
    stream = wire(*WHOLE, newline=newline)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    message = incoming(*(stream[a:b] for a, b in itertools.pairwise(edges)))
    reply = message.reply()

    assert message.complete
    assert reply is not None
    assert (reply.text, reply.stop_reason, reply.request_id) == ('{"a": 1}', "end_turn", "req_1")
    assert reply.tokens == Tokens(
        input=3, cache_read=17, cache_write_5m=11, cache_write_1h=13, output=5
    )


def test_thinking_is_not_text_but_counts_as_the_first_token() -> None:
    thought = {"type": "thinking_delta", "thinking": "hm"}
    message = incoming(
        wire(START, {"type": "content_block_delta", "index": 0, "delta": thought}, END, STOP)
    )
    reply = message.reply()

    assert reply is not None
    assert reply.text == ""
    assert reply.first_token_ms is not None


def test_a_refusal_keeps_its_category() -> None:
    declined = {
        "type": "message_delta",
        "delta": {"stop_reason": "refusal", "stop_details": {"category": "cyber"}},
        "usage": {"output_tokens": 0},
    }
    reply = incoming(wire(START, declined, STOP)).reply()

    assert reply is not None
    assert (reply.stop_reason, reply.refusal_category) == ("refusal", "cyber")


def test_what_had_arrived_of_a_cut_stream_is_known() -> None:
    message = incoming(wire(START, delta('{"a"')))
    reply = message.reply()

    assert not message.complete
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ('{"a"', None)
    assert reply.tokens.input == 3


def test_before_its_start_there_is_no_reply() -> None:
    assert incoming(wire({"type": "ping"})).reply() is None
    assert not incoming(wire(STOP)).complete


def test_an_error_event_ends_it() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    with pytest.raises(ErrorEvent) as caught:
        incoming(wire(START, error))

    assert (caught.value.type, caught.value.message) == ("overloaded_error", "Overloaded")
    assert caught.value.headers["request-id"] == "req_1"


def test_a_page_of_html_is_no_stream() -> None:
    with pytest.raises(MalformedReply, match="text/html"):
        Incoming().begin({"content-type": "text/html"})


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"type": "message_start"}',
        b'{"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": "x"}}}',
        b'{"type": "content_block_delta", "delta": null}',
        b'{"type": "content_block_delta", "delta": {"text": 5}}',
        b'{"type": "message_delta", "delta": {}}',
        b'{"type": "error"}',
        b'{"type": "message_start", "message": {"model": "a\\u0000", "usage": {}}}',
        b'{"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": -1}}}',
    ],
)
def test_nonsense_is_called_malformed(data: bytes) -> None:
    with pytest.raises(MalformedReply):
        incoming(b"data: " + data + b"\n\n")


@given(st.binary(max_size=500))
def test_no_bytes_raise_anything_else(noise: bytes) -> None:
    with contextlib.suppress(MalformedReply, ErrorEvent):
        incoming(b"data: " + noise + b"\n\n", noise)


def test_an_event_without_an_end_is_not_collected_for_ever() -> None:
    megabytes = [b"x" * 1024 * 1024] * 20

    with pytest.raises(MalformedReply):
        incoming(b"data: ", *megabytes)


def test_comments_and_unknown_events_are_skipped() -> None:
    odd = b": comment\n\nid: 4\nretry: 10\n\n" + wire({"type": "tomorrow's event"})

    assert incoming(odd, wire(*WHOLE)).complete


HOSTILE = ["a\x00b", "é🙂\u2028", "x" * 200_000, '"}]\\', "\x1b[2J"]


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_pieces_of_text_are_given_on_as_they_arrive_wherever_the_bytes_are_cut(
    cuts: list[int],
) -> None:
    heard: list[str] = []
    message = Incoming(heard.append)
    message.begin(HEADERS)
    events = [START, *map(delta, HOSTILE), END, STOP]
    # As UTF-8, so that characters are split too.
    stream = b"".join(
        b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events
    )
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for a, b in itertools.pairwise(edges):
        message.feed(stream[a:b])
    reply = message.reply()

    assert heard == HOSTILE
    assert reply is not None
    assert reply.text == "".join(HOSTILE)


@pytest.mark.parametrize("data", [b'"\xff\xfe"', b'"\xc3"', b'"\\ud800"'])
def test_text_that_is_no_unicode_is_given_on_to_nobody(data: bytes) -> None:
    heard: list[str] = []
    message = Incoming(heard.append)
    message.begin(HEADERS)
    message.feed(wire(START))
    event = b'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": %s}}' % data

    with pytest.raises(MalformedReply):
        message.feed(b"data: " + event + b"\n\n")
    assert heard == []


def test_the_tokens_of_the_input_are_given_on_once_when_the_message_begins() -> None:
    heard: list[Tokens] = []
    message = Incoming(on_begin=heard.append)
    message.begin(HEADERS)
    message.feed(wire({"type": "ping"}))
    assert heard == []

    message.feed(wire(START))
    begun = Tokens(input=3, cache_read=17, cache_write_5m=11, cache_write_1h=13, output=1)
    assert heard == [begun]
    message.feed(wire(delta("{}"), END, STOP))
    assert heard == [begun]
