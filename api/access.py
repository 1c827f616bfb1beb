"""Who may do what: keys, their scopes and their limits; checked before a body is read.

A key is looked up by its SHA-256. No secret is compared with another, so there is no comparison
whose time could tell how much of a guess was right; the hash of a guess tells nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from typing import Annotated

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection
from starlette.requests import Request

from api.database import Database
from api.problems import Problem
from api.rates import Rates
from worker.storage.api_keys import ApiKey, digest, find_key, touch_key

_KEY = re.compile(r"cj_[A-Za-z0-9_-]{43}")

#: For how long what is known of a key is believed: how soon one that is revoked ends (seconds).
TRUST_SECONDS = 5.0
_TOUCH_SECONDS = 60.0
_MOST_REMEMBERED = 10_000

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="`cj_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header")


class Keys:
    """The keys that were used lately; requests that come together look a key up once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[bytes, tuple[float, ApiKey | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._touched: dict[bytes, float] = {}

    async def find(self, key: str) -> ApiKey | None:
        """The key if it is valid.

        Raises:
            StorageUnavailable: Postgres cannot be reached.
        """
        if not _KEY.fullmatch(key):
            return None
        sha256 = digest(key)
        until, found = self._known.get(sha256, (0.0, None))
        if time.monotonic() < until:
            return found
        task = self._asked.get(sha256)
        if task is None:
            task = self._asked[sha256] = asyncio.create_task(self._ask(sha256))
            task.add_done_callback(lambda _: self._asked.pop(sha256, None))
        return await asyncio.shield(task)

    async def _ask(self, sha256: bytes) -> ApiKey | None:
        now = time.monotonic()
        touch = now - self._touched.get(sha256, -_TOUCH_SECONDS) >= _TOUCH_SECONDS
        found = await self._database.read(_look_up, sha256, touch=touch)
        self._known[sha256] = (now + TRUST_SECONDS, found)
        self._known.move_to_end(sha256)
        if found is not None and touch:
            self._touched[sha256] = now
        if len(self._known) > _MOST_REMEMBERED:
            forgotten, _ = self._known.popitem(last=False)
            self._touched.pop(forgotten, None)
        return found


def _look_up(connection: Connection, sha256: bytes, *, touch: bool) -> ApiKey | None:
    found = find_key(connection, sha256)
    if found is not None and touch:
        touch_key(connection, found.id)
    return found


def unauthorized(detail: str) -> Problem:
    """There is no valid key."""
    headers = {"www-authenticate": 'Bearer realm="claude-jobs"'}
    return Problem(401, "unauthorized", detail, headers=headers)


class Allowed:
    """A dependency: the request's key, which must have `scope` (None: any)."""

    def __init__(self, scope: str | None) -> None:
        self._scope = scope

    async def __call__(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        header: Annotated[str | None, Depends(_header)],
    ) -> ApiKey:
        given = bearer.credentials if bearer else header
        keys: Keys = request.app.state.keys
        key = await keys.find(given) if given else None
        if key is None:
            raise unauthorized("Send a valid key, as `Authorization: Bearer cj_…` or in X-API-Key.")
        request.scope["state"]["key"] = key
        rates: Rates = request.app.state.rates
        request.scope["state"]["headers"] = await rates.take(key)
        if self._scope is not None and self._scope not in key.scopes:
            raise Problem(403, "forbidden", f"This key lacks the scope {self._scope!r}.")
        return key


AnyKey = Annotated[ApiKey, Depends(Allowed(None))]
EnqueueKey = Annotated[ApiKey, Depends(Allowed("enqueue"))]
ReadKey = Annotated[ApiKey, Depends(Allowed("read"))]
CancelKey = Annotated[ApiKey, Depends(Allowed("cancel"))]
