from __future__ import annotations

import json
from typing import Any

import pytest

from worker.claude.reply import MalformedReply, Tokens, describe, read_message

USAGE = {"input_tokens": 3, "output_tokens": 5}


def body(**changes: Any) -> bytes:
    text = {"type": "text", "text": "{}"}
    message = {"model": "m", "content": [text], "stop_reason": "end_turn", "usage": USAGE}
    return json.dumps(message | changes).encode()


def read(**changes: Any) -> Any:
    return read_message(body(**changes), headers={"request-id": "req_1"}, latency_ms=7)


def test_text_is_joined_wherever_it_stands() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": '{"a":'},
        {"type": "redacted_thinking", "data": "y"},
        {"type": "text", "text": "1}"},
    ]

    assert read(content=content).text == '{"a":1}'


def test_a_refusal_without_content_is_a_reply() -> None:
    reply = read(content=[], stop_reason="refusal")

    assert (reply.text, reply.stop_reason) == ("", "refusal")


def test_cache_writes_keep_their_lifetimes_apart() -> None:
    creation = {"ephemeral_5m_input_tokens": 11, "ephemeral_1h_input_tokens": 13}
    usage = USAGE | {
        "cache_creation_input_tokens": 24,
        "cache_read_input_tokens": 17,
        "cache_creation": creation,
        "output_tokens_details": {"thinking_tokens": 2},
    }

    assert read(usage=usage).tokens == Tokens(
        input=3, cache_read=17, cache_write_5m=11, cache_write_1h=13, output=5, thinking=2
    )


def test_cache_writes_without_a_lifetime_count_as_short_ones() -> None:
    tokens = read(usage=USAGE | {"cache_creation_input_tokens": 24}).tokens

    assert (tokens.cache_write_5m, tokens.cache_write_1h) == (24, 0)


def test_what_the_api_adds_is_ignored() -> None:
    reply = read(novelty={"a": 1}, usage=USAGE | {"novelty": 1, "service_tier": "priority"})

    assert reply.service_tier == "priority"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'{"model": "m"}',
        body()[:-20],
        body(usage=None),
        body(content="text"),
        body(usage={"input_tokens": "many"}),
        body(usage={"input_tokens": 2**31}),
        body(usage={"output_tokens": -1}),
        body(model="a\x00b"),
        body(stop_reason="\x00"),
    ],
)
def test_a_body_that_is_no_message_is_refused(broken: bytes) -> None:
    with pytest.raises(MalformedReply):
        read_message(broken, headers={}, latency_ms=1)


def test_what_is_logged_of_a_reply_holds_none_of_its_text() -> None:
    reply = read(content=[{"type": "text", "text": "confidential"}])

    assert "confidential" not in str(describe(reply))
