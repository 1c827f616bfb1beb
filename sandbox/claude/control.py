"""The control endpoints, under `/_control/`: where the SDK never goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from sandbox.claude.config import Config
from sandbox.claude.faults import Fault
from sandbox.claude.server import Server

PREFIX = "/_control/"

_faults = TypeAdapter(list[Fault])


class Control:
    """Lets tests script faults, change settings and read the ledger, over HTTP."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._actions: dict[tuple[str, str], Callable[[web.BaseRequest, Any], object]] = {
            ("POST", "faults"): self._add_faults,
            ("GET", "faults"): lambda request, body: server.faults.remaining(),
            ("DELETE", "faults"): lambda request, body: server.faults.clear(),
            ("POST", "config"): self._configure,
            ("GET", "config"): lambda request, body: server.config.model_dump(mode="json"),
            ("GET", "ledger"): self._read_ledger,
            ("DELETE", "ledger"): lambda request, body: server.ledger.clear(),
            ("POST", "cache"): lambda request, body: server.cache.age(float(body["age"])),
            ("DELETE", "cache"): lambda request, body: server.cache.clear(),
            ("DELETE", "account"): lambda request, body: server.account.reset(),
            ("GET", "batches"): lambda request, body: server.batches.overview(),
            ("POST", "batches"): self._advance,
            ("DELETE", "batches"): lambda request, body: server.batches.clear(),
            ("GET", "stats"): lambda request, body: server.stats(),
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to a control endpoint: 200 with JSON, or 400/404 with a plain text."""
        action = self._actions.get((request.method, request.path.removeprefix(PREFIX)))
        if action is None:
            return web.Response(status=404, text=f"no control endpoint {request.path}")
        body = await request.read()
        try:
            result = action(request, json.loads(body) if body else None)
        except (KeyError, TypeError, ValidationError, ValueError) as error:
            return web.Response(status=400, text=str(error))
        return web.json_response(result)

    def _add_faults(self, request: web.BaseRequest, body: Any) -> None:
        self._server.faults.append(_faults.validate_python(body))

    def _configure(self, request: web.BaseRequest, body: Any) -> dict[str, object]:
        settings = self._server.config.model_dump(mode="json") | body
        self._server.configure(Config.model_validate(settings))
        return self._server.config.model_dump(mode="json")

    def _advance(self, request: web.BaseRequest, body: Any) -> None:
        self._server.batches.clock.advance(float(body["advance"]))

    def _read_ledger(self, request: web.BaseRequest, body: Any) -> list[dict[str, object]]:
        since = int(request.query.get("since", 0))
        return [entry.as_json() for entry in self._server.ledger.since(since)]
