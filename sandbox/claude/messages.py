"""Replies on the wire: one JSON message, or a stream of server-sent events."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from sandbox.claude.replies import REFUSAL, Block, Reply
from sandbox.claude.tokens import BYTES_PER_TOKEN, Usage

# A thinking block must be handed back unchanged, which its signature proves.
SIGNATURE = base64.b64encode(b"simulated signature").decode()

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def message_body(
    reply: Reply, *, message_id: str, model: str, usage: Usage, service_tier: str = "standard"
) -> bytes:
    """The body of a reply that is not streamed."""
    return _encode(
        {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [_block(block) for block in reply.blocks],
            **_stop(reply),
            "usage": usage.as_message_usage() | {"service_tier": service_tier},
        }
    ).encode()


def sse_event(data: dict[str, object]) -> bytes:
    """One server-sent event, named after its `type`."""
    return f"event: {data['type']}\ndata: {_encode(data)}\n\n".encode()


def message_events(
    reply: Reply, *, message_id: str, model: str, usage: Usage, chunk_tokens: int
) -> list[bytes]:
    """The events of a streamed reply, in the order in which Claude sends them."""
    started: dict[str, object] = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": replace(
            usage, output_tokens=min(1, usage.output_tokens), thinking_tokens=0
        ).as_message_usage(),
    }
    events = [sse_event({"type": "message_start", "message": started})]
    for index, block in enumerate(reply.blocks):
        events += _block_events(index, block, chunk_tokens * BYTES_PER_TOKEN)
    # Claude sends its first ping after the first block has begun.
    events.insert(min(2, len(events)), sse_event({"type": "ping"}))
    events.append(
        sse_event({"type": "message_delta", "delta": _stop(reply), "usage": usage.as_delta_usage()})
    )
    events.append(sse_event({"type": "message_stop"}))
    return events


def _block_events(index: int, block: Block, chunk: int) -> list[bytes]:
    empty = _block(Block(block.type, "")) | ({"signature": ""} if block.type == "thinking" else {})
    events = [sse_event({"type": "content_block_start", "index": index, "content_block": empty})]
    # A delta differs from the next one in its text alone.
    head = (
        "event: content_block_delta\n"
        f'data: {{"type":"content_block_delta","index":{index},'
        f'"delta":{{"type":"{block.type}_delta","{block.type}":'
    )
    for start in range(0, len(block.text), chunk):
        events.append(f"{head}{_encode(block.text[start : start + chunk])}}}}}\n\n".encode())
    if block.type == "thinking":
        signature = {"type": "signature_delta", "signature": SIGNATURE}
        events.append(
            sse_event({"type": "content_block_delta", "index": index, "delta": signature})
        )
    events.append(sse_event({"type": "content_block_stop", "index": index}))
    return events


def _block(block: Block) -> dict[str, object]:
    if block.type == "thinking":
        return {"type": "thinking", "thinking": block.text, "signature": SIGNATURE}
    return {"type": "text", "text": block.text}


def _stop(reply: Reply) -> dict[str, object]:
    stop: dict[str, object] = {
        "stop_reason": reply.stop_reason,
        "stop_sequence": reply.stop_sequence,
    }
    if reply.stop_reason == "refusal":
        stop["stop_details"] = {"type": "refusal", "category": None, "explanation": REFUSAL}
    return stop
