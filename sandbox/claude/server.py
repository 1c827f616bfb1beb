"""The simulated Claude: what it does with a request, and what it charges for it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from sandbox.claude.config import Config
from sandbox.claude.delivery import send, send_faulty
from sandbox.claude.errors import ApiError
from sandbox.claude.faults import Fault, FaultScript
from sandbox.claude.ledger import Ledger, LedgerEntry
from sandbox.claude.models import MODELS
from sandbox.claude.prompt import Segment, cache_ttl, prompt_segments
from sandbox.claude.promptcache import PromptCache
from sandbox.claude.replies import Reply, Writer
from sandbox.claude.tokens import Usage, tokens_in_bytes, utf8_length
from sandbox.claude.validate import (
    MAX_BODY_BYTES,
    MessageRequest,
    parse_count_request,
    parse_message_request,
)
from sandbox.claude.wires import error_wire, fault_wire, json_wire, reply_wire


class Server:
    """Answers `/v1/messages` and `/v1/messages/count_tokens`, and keeps the books."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.faults = FaultScript(seed)
        self.ledger = Ledger()
        self.cache = PromptCache()
        self._writer = Writer(seed)
        # Told apart across restarts, as Claude's ids are.
        self._run = secrets.token_hex(5)
        self._received = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one API request, whatever it is."""
        self._received += 1
        request_id = f"req_{self._run}{self._received:08x}"
        endpoint = (request.method, request.path)
        if endpoint == ("POST", "/v1/messages"):
            return await self._create_message(request, request_id)
        try:
            if endpoint != ("POST", "/v1/messages/count_tokens"):
                raise ApiError(404, f"Not found: {request.method} {request.path}")
            wire = json_wire(200, {"input_tokens": await self._count(request)}, request_id)
        except ApiError as error:
            wire = error_wire(error, request_id)
        return await send(request, wire)

    async def _count(self, request: web.BaseRequest) -> int:
        self._authenticate(request)
        payload, schema_json = parse_count_request(await _read(request))
        return _prompt_tokens([Segment(schema_json), *prompt_segments(payload)])

    async def _create_message(
        self, request: web.BaseRequest, request_id: str
    ) -> web.StreamResponse:
        entry = self.ledger.open(request_id)
        outcome = "crashed"  # unless one of the lines below knows better
        try:
            response, outcome = await self._answer(request, entry)
            return response
        except ConnectionError:
            outcome = "disconnected"
            return web.StreamResponse()  # nobody is left to receive it
        except asyncio.CancelledError:
            outcome = "disconnected"
            raise
        finally:
            self.ledger.close(entry, outcome)

    async def _answer(
        self, request: web.BaseRequest, entry: LedgerEntry
    ) -> tuple[web.StreamResponse, str]:
        """The response that was sent, and its outcome for the ledger."""
        try:
            self._authenticate(request)
            body = await _read(request)
            entry.body_sha256 = hashlib.sha256(body).hexdigest()
            message, segments = _understood(body)
            entry.model, entry.stream, entry.tag = message.model, message.stream, message.tag
        except ApiError as error:
            entry.status = error.status
            response = await send(request, error_wire(error, entry.request_id))
            entry.delivered = True
            return response, "error"
        fault = self.faults.strike(body)
        if fault is not None:
            return await self._fail(request, entry, message, segments, fault)
        reply = self._generate(entry, message, segments)
        await self._think(reply, entry.stream)
        response = await send(request, reply_wire(reply, entry, self.config, None))
        entry.delivered = True
        return response, "ok"

    async def _fail(
        self,
        request: web.BaseRequest,
        entry: LedgerEntry,
        message: MessageRequest,
        segments: Sequence[Segment],
        fault: Fault,
    ) -> tuple[web.StreamResponse, str]:
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status is not None:
            if fault.billed:
                self._generate(entry, message, segments)
            entry.status = fault.status
            wire = fault_wire(fault, fault.status, entry.request_id)
        else:
            reply = self._generate(entry, message, segments, fault)
            await self._think(reply, entry.stream)
            wire = reply_wire(reply, entry, self.config, fault)
        response, entry.delivered = await send_faulty(request, wire, fault)
        return response, fault.name

    def _authenticate(self, request: web.BaseRequest) -> None:
        key = request.headers.get("x-api-key")
        if key is None:  # the SDK sends the key as a bearer token
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            raise ApiError(401, "x-api-key header is required")
        if self.config.api_key is not None and key != self.config.api_key:
            raise ApiError(401, "invalid x-api-key")
        if "anthropic-version" not in request.headers:
            raise ApiError(400, "anthropic-version: header is required")

    def _generate(
        self,
        entry: LedgerEntry,
        message: MessageRequest,
        segments: Sequence[Segment],
        fault: Fault | None = None,
    ) -> Reply:
        """Generate the reply and bill it: from here on it costs money, delivered or not."""
        thinks = message.thinking != "disabled"
        reply = self._writer.reply(
            message,
            segments,
            thinking_tokens=self.config.thinking_tokens if thinks else 0,
            fault=fault,
        )
        entry.status = 200
        entry.bill(
            replace(
                self._input_usage(message, segments),
                output_tokens=reply.output_tokens,
                thinking_tokens=reply.thinking_tokens,
            )
        )
        return reply

    def _input_usage(self, message: MessageRequest, segments: Sequence[Segment]) -> Usage:
        if not any(segment.ttl for segment in segments):
            return Usage(input_tokens=_prompt_tokens(segments))
        return self.cache.account(
            message.model, MODELS[message.model], segments, ready_in=self.config.latency
        )

    async def _think(self, reply: Reply, stream: bool) -> None:
        """Wait until the first byte is due, which for a plain reply is after its last token."""
        seconds = self.config.latency
        if not stream and self.config.tokens_per_second is not None:
            seconds += reply.output_tokens / self.config.tokens_per_second
        if seconds:
            await asyncio.sleep(seconds)


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        limit = MAX_BODY_BYTES // 1024**2
        raise ApiError(413, f"Request exceeds the maximum size of {limit} MB") from None


def _understood(body: bytes) -> tuple[MessageRequest, list[Segment]]:
    """The request and its prompt. Raises `ApiError` for what Claude would refuse."""
    try:
        message = parse_message_request(body)
        return message, _segments(message)
    except (AttributeError, KeyError, TypeError) as error:
        # Nested parameters are not all checked one by one: a wrong type in them ends here.
        raise ApiError(400, f"The request is malformed: {error!r}") from error


def _segments(message: MessageRequest) -> list[Segment]:
    """The prompt, its schema first, as the cache sees it. Raises `ApiError` if it is too long."""
    segments = [Segment(message.schema_json), *prompt_segments(message.payload)]
    tokens, limit = _prompt_tokens(segments), MODELS[message.model].context_tokens
    if tokens > limit:
        raise ApiError(400, f"prompt is too long: {tokens} tokens > {limit} maximum")
    if ttl := cache_ttl(message.payload.get("cache_control")):
        segments[-1] = replace(segments[-1], ttl=ttl)
    return segments


def _prompt_tokens(segments: Sequence[Segment]) -> int:
    return tokens_in_bytes(sum(utf8_length(segment.text) for segment in segments))
