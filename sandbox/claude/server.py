"""The simulated Claude: what it does with a request, and what it charges for it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiohttp import web

from sandbox.claude.account import Account, spend_limit_reached
from sandbox.claude.batches import Batches
from sandbox.claude.batchserver import PATH as BATCHES
from sandbox.claude.batchserver import BatchEndpoints
from sandbox.claude.config import Config
from sandbox.claude.delivery import send, send_faulty
from sandbox.claude.errors import ApiError
from sandbox.claude.faults import Fault, FaultScript
from sandbox.claude.headers import check_headers
from sandbox.claude.ledger import Ledger, LedgerEntry
from sandbox.claude.models import MODELS
from sandbox.claude.prompt import Segment
from sandbox.claude.promptcache import CachePlan, PromptCache
from sandbox.claude.replies import Reply, Writer
from sandbox.claude.tokens import Usage
from sandbox.claude.understand import counted, read_body, understood
from sandbox.claude.validate import MAX_BODY_BYTES, MessageRequest
from sandbox.claude.wires import error_wire, fault_wire, json_wire, reply_wire


@dataclass(slots=True)
class _Call:
    """A request to `/v1/messages` that was understood and admitted."""

    entry: LedgerEntry
    message: MessageRequest
    segments: Sequence[Segment]
    plan: CachePlan


class Server:
    """Answers `/v1/messages`, `…/count_tokens` and `…/batches`, and keeps the books."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.faults = FaultScript(seed)
        self.ledger = Ledger()
        self.cache = PromptCache()
        self.cache.speed = config.cache_speed
        self.account = Account(config)
        self.writer = Writer(seed)
        # Told apart across restarts, as Claude's ids are.
        self.run = secrets.token_hex(5)
        self._received = 0
        self.batches = Batches(self)
        self._batch_endpoints = BatchEndpoints(self)

    def configure(self, config: Config) -> None:
        """Take over other settings."""
        self.config = config
        self.cache.speed = config.cache_speed
        self.batches.clock.set_speed(config.batch_speed)
        self.account.configure(config)

    def stats(self) -> dict[str, object]:
        """Counts of requests, and what each model class has used."""
        return {**self.ledger.stats(), "classes": self.account.stats()}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one API request, whatever it is."""
        request_id = self.next_request_id()
        endpoint = (request.method, request.path)
        if endpoint == ("POST", "/v1/messages"):
            return await self._create_message(request, request_id)
        if request.path.startswith(BATCHES):
            return await self._batch_endpoints.handle(request, request_id)
        limits = self.account.headers("")
        try:
            if endpoint != ("POST", "/v1/messages/count_tokens"):
                raise ApiError(404, f"Not found: {request.method} {request.path}")
            count = await self._count(request)
            wire = json_wire(200, {"input_tokens": count}, request_id, limits)
        except ApiError as error:
            wire = error_wire(error, request_id, limits)
        return await send(request, wire)

    def next_request_id(self) -> str:
        """A fresh request id."""
        self._received += 1
        return f"req_{self.run}{self._received:08x}"

    async def _count(self, request: web.BaseRequest) -> int:
        betas = check_headers(request.headers, self.config.api_key)
        return counted(await read_body(request, MAX_BODY_BYTES), betas)

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
            betas = check_headers(request.headers, self.config.api_key)
            body = await read_body(request, MAX_BODY_BYTES)
            entry.body_sha256 = hashlib.sha256(body).hexdigest()
            call = self._admitted(entry, *understood(body, betas))
        except ApiError as error:
            entry.status = error.status
            wire = error_wire(error, entry.request_id, self.account.headers(entry.model))
            response = await send(request, wire)
            entry.delivered = True
            return response, "error"
        fault = self.faults.strike(body, entry.body_sha256, stream=entry.stream)
        if fault is not None:
            return await self._fail(request, call, fault)
        reply = await self._reply(call)
        limits = self.account.headers(entry.model)
        response = await send(request, reply_wire(reply, entry, self.config, limits))
        entry.delivered = True
        return response, "ok"

    def _admitted(
        self, entry: LedgerEntry, message: MessageRequest, segments: Sequence[Segment], tokens: int
    ) -> _Call:
        """The call, if the account may make it. Raises `ApiError`."""
        entry.model, entry.stream, entry.tag = message.model, message.stream, message.tag
        config = self.config
        if config.overload is not None and self.ledger.in_flight > config.overload:
            self.account.overloaded(entry.model)
            raise ApiError(529)
        if config.spend_limit_usd is not None and self.ledger.spent_usd >= config.spend_limit_usd:
            raise spend_limit_reached()
        if any(segment.ttl for segment in segments):
            plan = self.cache.plan(message.model, MODELS[message.model], segments)
        else:
            plan = CachePlan(Usage(input_tokens=tokens))
        self.account.admit(entry.model, plan.usage.limited_tokens)
        return _Call(entry, message, segments, plan)

    async def _fail(
        self, request: web.BaseRequest, call: _Call, fault: Fault
    ) -> tuple[web.StreamResponse, str]:
        entry = call.entry
        entry.fault = fault.name
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status is not None:
            if fault.billed:
                self.account.generated(entry.model, self._generate(call).output_tokens)
            else:
                self.account.give_back(entry.model, call.plan.usage.limited_tokens)
            entry.status = fault.status
            limits = self.account.headers(entry.model)
            wire = fault_wire(fault, fault.status, entry.request_id, limits)
        else:
            reply = await self._reply(call, fault)
            limits = self.account.headers(entry.model)
            wire = reply_wire(reply, entry, self.config, limits, fault)
        response, entry.delivered = await send_faulty(request, wire, fault)
        return response, fault.name

    async def _reply(self, call: _Call, fault: Fault | None = None) -> Reply:
        """The reply, at the time at which its first byte is due.

        For a plain reply that is after its last token.
        """
        reply = self._generate(call, fault)
        try:
            seconds = self.config.latency
            if not call.entry.stream and self.config.tokens_per_second is not None:
                seconds += reply.output_tokens / self.config.tokens_per_second
            if seconds:
                await asyncio.sleep(seconds)
        finally:
            self.account.generated(call.entry.model, reply.output_tokens)
        return reply

    def _generate(self, call: _Call, fault: Fault | None = None) -> Reply:
        """Generate the reply and bill it: from here on it costs money, delivered or not."""
        thinking_tokens = self.config.thinking_tokens if call.message.thinks else 0
        reply = self.writer.reply(
            call.message, call.segments, thinking_tokens=thinking_tokens, fault=fault
        )
        self.cache.commit(call.plan, ready_in=self.config.latency)
        call.entry.status = 200
        usage = replace(
            call.plan.usage,
            output_tokens=reply.output_tokens,
            thinking_tokens=reply.thinking_tokens,
        )
        self.ledger.bill(call.entry, usage)
        return reply
