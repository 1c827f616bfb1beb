"""What Claude answers: the content of a reply, before it is put on the wire."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sandbox.claude.damage import damaged
from sandbox.claude.faults import Fault
from sandbox.claude.generate import Generator
from sandbox.claude.prompt import Segment, user_text
from sandbox.claude.prose import Prose
from sandbox.claude.tokens import BYTES_PER_TOKEN, estimate_tokens
from sandbox.claude.validate import MessageRequest

REMEMBERED_TEXTS = 4096
THOUGHT = "The user wants an answer about this text. "
REFUSAL = "This request was declined."


@dataclass(frozen=True, slots=True)
class Block:
    """A content block."""

    type: Literal["text", "thinking"]
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated message. `output_tokens` includes `thinking_tokens`."""

    blocks: tuple[Block, ...]
    stop_reason: str
    output_tokens: int
    thinking_tokens: int = 0
    stop_sequence: str | None = None


class Writer:
    """Writes replies. Seed, model, prompt and schema decide what; nothing else does."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._texts: dict[bytes, str] = {}

    def reply(
        self,
        request: MessageRequest,
        segments: Sequence[Segment],
        *,
        thinking_tokens: int = 0,
        fault: Fault | None = None,
    ) -> Reply:
        """The reply to `request` with the prompt `segments`, as `fault` would have it."""
        text = self._text(request, segments)
        if fault is not None:
            if fault.reply is not None:
                text = fault.reply
            elif fault.stop_reason == "refusal" or fault.content == "empty":
                text = ""
            if fault.content is not None:
                text = damaged(text, request.schema, fault.content)
        thoughts = thinking_tokens
        if fault is not None and fault.content == "thinking_first":
            thoughts = max(thoughts, estimate_tokens(THOUGHT))
        reply = _limited(request, text, thoughts)
        if fault is None:
            return reply
        if fault.content == "split":
            reply = replace(reply, blocks=_split(reply.blocks))
        return replace(reply, stop_reason=fault.stop_reason or reply.stop_reason)

    def _text(self, request: MessageRequest, segments: Sequence[Segment]) -> str:
        what = [str(self._seed), request.model, *(segment.text for segment in segments)]
        key = hashlib.sha256("\0".join(what).encode()).digest()
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) >= REMEMBERED_TEXTS:
                self._texts.clear()
            text = self._texts[key] = _written(request, random.Random(key))
        return text


def _written(request: MessageRequest, rng: random.Random) -> str:
    prose = Prose(user_text(request.payload), rng)
    if request.schema is None:
        return prose.paragraph(rng.randint(3, 6))
    value = Generator(request.schema, prose, rng).value()
    return json.dumps(value, ensure_ascii=False)


def _limited(request: MessageRequest, text: str, thinking_tokens: int) -> Reply:
    """The reply cut off at a stop sequence or at max_tokens, thinking included.

    Thoughts that are not shown are billed all the same: their block has no text.
    """
    stop_reason, stop_sequence = "end_turn", None
    for sequence in request.stop_sequences:
        if sequence in text:
            text = text[: text.index(sequence)]
            stop_reason, stop_sequence = "stop_sequence", sequence
    thinking_tokens = min(thinking_tokens, request.max_tokens)
    room = request.max_tokens - thinking_tokens
    tokens = max(1, estimate_tokens(text))
    if tokens > room:
        text = text.encode()[: room * BYTES_PER_TOKEN].decode(errors="ignore")
        tokens, stop_reason, stop_sequence = room, "max_tokens", None
    blocks = []
    if thinking_tokens:
        thought = _thought(thinking_tokens) if request.shows_thoughts else ""
        blocks.append(Block("thinking", thought))
    if text:
        blocks.append(Block("text", text))
    return Reply(
        tuple(blocks), stop_reason, thinking_tokens + tokens, thinking_tokens, stop_sequence
    )


def _thought(tokens: int) -> str:
    size = tokens * BYTES_PER_TOKEN
    return (THOUGHT * (size // len(THOUGHT) + 1))[:size]


def _split(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    parts: list[Block] = []
    for block in blocks:
        third = len(block.text) // 3
        if block.type == "text" and third:
            cuts = (block.text[:third], block.text[third : 2 * third], block.text[2 * third :])
            parts += [Block("text", cut) for cut in cuts]
        else:
            parts.append(block)
    return tuple(parts)
