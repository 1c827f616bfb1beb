"""The endpoints under `/v1/messages/batches`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from sandbox.claude.account import spend_limit_reached
from sandbox.claude.batchchecks import MAX_BATCH_BYTES, parse_batch
from sandbox.claude.batches import Batch, pieces
from sandbox.claude.delivery import Wire, send, send_faulty
from sandbox.claude.errors import ApiError
from sandbox.claude.faults import Fault, Target
from sandbox.claude.headers import check_headers
from sandbox.claude.understand import read_body
from sandbox.claude.wires import error_wire, fault_wire, json_wire

if TYPE_CHECKING:
    from sandbox.claude.server import Server

PATH = "/v1/messages/batches"
DEFAULT_PAGE, LONGEST_PAGE = 20, 1000


class BatchEndpoints:
    """Answers requests about batches."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def handle(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        """Answer one request whose path begins with `PATH`."""
        limits = self._server.account.headers("")
        try:
            betas = check_headers(request.headers, self._server.config.api_key)
            body = await read_body(request, MAX_BATCH_BYTES)
            target = _target(request)
            # A GET has no body: its path is what a fault's `match` looks at.
            struck = self._strike(target, body or request.path.encode())
            if struck is not None and struck.status is not None and not struck.billed:
                wire = fault_wire(struck, struck.status, request_id, limits)
            else:
                wire = self._answer(request, target, body, betas, request_id)
                if struck is not None and struck.status is not None:
                    wire = fault_wire(struck, struck.status, request_id, limits)
        except ApiError as error:
            return await send(request, error_wire(error, request_id, limits))
        if struck is None:
            return await send(request, wire)
        if struck.delay:
            await asyncio.sleep(struck.delay)
        return (await send_faulty(request, wire, struck))[0]

    def _strike(self, target: Target, body: bytes) -> Fault | None:
        sha256 = hashlib.sha256(body).hexdigest()
        return self._server.faults.strike(body, sha256, stream=False, on=target)

    def _answer(
        self,
        request: web.BaseRequest,
        target: Target,
        body: bytes,
        betas: frozenset[str],
        request_id: str,
    ) -> Wire:
        batches, limits = self._server.batches, self._server.account.headers("")
        match target:
            case "batch_create":
                self._check_spend()
                shown: object = self._shown(request, batches.create(parse_batch(body), betas))
            case "batch_list":
                shown = self._list(request)
            case "batch_results":
                lines = batches.results(batches.find(_id(request)))
                headers = {"content-type": "application/x-jsonl", **limits}
                return Wire(200, headers | {"request-id": request_id}, [*pieces(lines)], True)
            case "batch_cancel":
                batch = batches.find(_id(request))
                batches.cancel(batch)
                shown = self._shown(request, batch)
            case "batch_delete":
                batch = batches.find(_id(request))
                batches.delete(batch)
                shown = {"id": batch.id, "type": "message_batch_deleted"}
            case _:
                shown = self._shown(request, batches.find(_id(request)))
        return json_wire(200, shown, request_id, limits)

    def _check_spend(self) -> None:
        limit = self._server.config.spend_limit_usd
        if limit is not None and self._server.ledger.spent_usd >= limit:
            raise spend_limit_reached()

    def _shown(self, request: web.BaseRequest, batch: Batch) -> dict[str, object]:
        return batch.as_json(self._server.batches.clock.now(), f"http://{request.host}")

    def _list(self, request: web.BaseRequest) -> dict[str, object]:
        query = request.query
        for name in query.keys() - {"after_id", "before_id", "limit"}:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
        if "after_id" in query and "before_id" in query:
            raise ApiError(400, "after_id: cannot be given together with before_id")
        found, more = self._server.batches.page(
            _limit(query), query.get("after_id"), query.get("before_id")
        )
        return {
            "data": [self._shown(request, batch) for batch in found],
            "has_more": more,
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
        }


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_PAGE))
    try:
        limit = int(text)
    except ValueError:
        raise ApiError(400, "limit: Input should be a valid integer") from None
    if not 1 <= limit <= LONGEST_PAGE:
        raise ApiError(400, f"limit: Input should be between 1 and {LONGEST_PAGE}")
    return limit


def _id(request: web.BaseRequest) -> str:
    return request.path.removeprefix(PATH).split("/")[1]


def _target(request: web.BaseRequest) -> Target:
    """Which endpoint is meant. Raises a 404."""
    methods: dict[str, Target] = {}
    match request.path.removeprefix(PATH).strip("/").split("/"):
        case [""]:
            methods = {"POST": "batch_create", "GET": "batch_list"}
        case [_]:
            methods = {"GET": "batch_get", "DELETE": "batch_delete"}
        case [_, "results"]:
            methods = {"GET": "batch_results"}
        case [_, "cancel"]:
            methods = {"POST": "batch_cancel"}
    if request.method not in methods:
        raise ApiError(404, f"Not found: {request.method} {request.path}")
    return methods[request.method]
