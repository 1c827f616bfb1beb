"""Replies, plain and streamed, as the SDK knows them."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import Anthropic
from pydantic import ValidationError

from sandbox.claude.client import SimulatedClaude
from tests.integration.claude.asking import (
    ANALYSIS,
    MODEL,
    TEXT,
    Analysis,
    ask,
    assert_known,
    checked_events,
    checked_message,
    post,
    request,
    stream,
    text_of,
)

KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "json": {"output_config": ANALYSIS},
    "cut off": {"max_tokens": 3},
    "stopped": {"stop_sequences": ["e"]},
    "thoughts shown": {"thinking": {"type": "adaptive", "display": "summarized"}},
    "cached": {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "system": "rules " * 900},
}
ODD: dict[str, dict[str, Any]] = {
    "a refusal": {"stop_reason": "refusal"},
    "nothing": {"content": "empty"},
    "thoughts first": {"content": "thinking_first"},
    "split": {"content": "split"},
    "no room": {"stop_reason": "model_context_window_exceeded"},
}


@pytest.mark.parametrize("kind", [*KINDS, *ODD])
@pytest.mark.parametrize("thinking_tokens", [0, 40])
def test_replies_and_streams_are_what_the_sdks_types_say(
    claude: SimulatedClaude, kind: str, thinking_tokens: int
) -> None:
    claude.configure(thinking_tokens=thinking_tokens)
    if kind in ODD:
        claude.faults(*[ODD[kind]] * 2)
    body = request(**KINDS.get(kind, {}))

    message = checked_message(post(claude, body).json())
    events = checked_events(post(claude, body | {"stream": True}).text)

    assert message.usage.output_tokens_details is not None
    assert [event.type for event in events[:1]] == ["message_start"]
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2].delta.stop_reason == message.stop_reason
    assert events[-2].usage.output_tokens == message.usage.output_tokens
    started = [event for event in events if event.type == "content_block_start"]
    assert [event.content_block.type for event in started] == [b.type for b in message.content]


def test_a_reply_comes_with_the_apis_headers(claude: SimulatedClaude) -> None:
    for response in (post(claude, request()), post(claude, {})):
        assert response.headers["request-id"].startswith("req_")
        assert response.headers["anthropic-organization-id"]
        for name in ("requests", "input-tokens", "output-tokens", "tokens"):
            for part in ("limit", "remaining", "reset"):
                assert response.headers[f"anthropic-ratelimit-{name}-{part}"]


def test_a_stream_has_the_events_in_order(sdk: Anthropic) -> None:
    events = stream(sdk)
    types = [event.type for event in events]

    assert types[:2] == ["message_start", "content_block_start"]
    assert set(types[2:-3]) == {"content_block_delta"}
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.usage.input_tokens > 0
    assert events[0].message.usage.cache_creation is not None
    assert events[-2].usage.output_tokens > 0


def test_pings_are_sent_where_claude_sends_them(claude: SimulatedClaude) -> None:
    reply = post(claude, request(stream=True))

    assert reply.headers["content-type"].startswith("text/event-stream")
    names = [line for line in reply.text.splitlines() if line.startswith("event: ")]
    assert names[2] == "event: ping"


@pytest.mark.parametrize("options", [{}, {"output_config": ANALYSIS}])
def test_a_stream_adds_up_to_the_plain_reply(sdk: Anthropic, options: dict[str, Any]) -> None:
    plain = ask(sdk, **options)
    with sdk.messages.stream(
        model=MODEL, max_tokens=2000, messages=[{"role": "user", "content": TEXT}], **options
    ) as events:
        streamed = events.get_final_message()

    assert text_of(streamed) == text_of(plain)
    assert streamed.usage == plain.usage
    assert streamed.id != plain.id


def test_thinking_is_billed_and_counts_toward_max_tokens(
    sdk: Anthropic, claude: SimulatedClaude
) -> None:
    claude.configure(thinking_tokens=40)
    message = ask(sdk)
    short = ask(sdk, max_tokens=30)
    shown = ask(sdk, thinking={"type": "adaptive", "display": "summarized"})
    off = ask(sdk, thinking={"type": "between_tools"})

    assert [block.type for block in message.content] == ["thinking", "text"]
    # The newest models keep their thoughts to themselves unless they are asked for them.
    assert message.content[0].to_dict()["thinking"] == ""
    assert shown.content[0].to_dict()["thinking"]
    assert shown.usage == message.usage
    assert message.usage.output_tokens_details
    assert message.usage.output_tokens_details.thinking_tokens == 40
    assert message.usage.output_tokens > 40
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 30)
    assert [block.type for block in off.content] == ["text"]
    assert [event.type for event in stream(sdk)].count("content_block_start") == 2


def test_max_tokens_cuts_the_reply_off(sdk: Anthropic) -> None:
    message = ask(sdk, output_config=ANALYSIS, max_tokens=10)

    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 10
    with pytest.raises(ValidationError):
        Analysis.model_validate_json(text_of(message))


def test_stop_sequences_end_the_reply(sdk: Anthropic) -> None:
    message = ask(sdk, stop_sequences=["e"])

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "e")
    assert "e" not in text_of(message)


def test_tokens_are_counted_as_they_are_billed(sdk: Anthropic) -> None:
    messages: Any = [{"role": "user", "content": TEXT}]
    count = sdk.messages.count_tokens(
        model=MODEL, messages=messages, system="Be brief.", output_config=ANALYSIS
    )

    assert_known(count)
    usage = ask(sdk, system="Be brief.", output_config=ANALYSIS).usage
    assert count.input_tokens == usage.input_tokens


def test_latency_and_speed_hold_a_reply_back(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.configure(latency=0.1, tokens_per_second=200)
    message = ask(sdk)
    stream(sdk)

    due = 0.1 + message.usage.output_tokens / 200
    plain, streamed = claude.ledger()
    for entry in (plain, streamed):
        assert entry.finished_at is not None
        assert entry.finished_at - entry.received_at > 0.8 * due
    assert plain.first_text_at is None
    assert streamed.first_text_at is not None
    assert streamed.received_at + 0.1 <= streamed.first_text_at <= streamed.finished_at
