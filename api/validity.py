"""Keys that end while something is open with them: streams and waits end with their key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from api.access import TRUST_SECONDS, unauthorized
from api.database import Database
from api.problems import log_unexpected
from worker.errors import StorageUnavailable
from worker.storage.api_keys import ApiKey, valid_keys


@dataclass(slots=True)
class _Use:
    """A key with which so many things are open."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class Validity:
    """Asks every few seconds, in one statement, after all keys with which something is open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._uses: dict[UUID, _Use] = {}
        self._checks: dict[UUID, asyncio.Task[set[UUID]]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def use(self, key: ApiKey) -> Iterator[asyncio.Event]:
        """For as long as something is open; the event says that the key is valid no more."""
        use = self._uses.setdefault(key.id, _Use())
        use.count += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_looking())
        try:
            yield use.ended
        finally:
            use.count -= 1
            if not use.count:
                del self._uses[key.id]

    async def check(self, key: ApiKey) -> None:
        """Ask now. Of those who ask at the same time one asks for all.

        Raises:
            Problem: 401, the key is valid no more.
            StorageUnavailable: Postgres cannot be reached.
        """
        task = self._checks.get(key.id)
        if task is None:
            asked = self._database.read(valid_keys, [key.id])
            task = self._checks[key.id] = asyncio.create_task(asked)
            task.add_done_callback(lambda _: self._checks.pop(key.id, None))
        if key.id not in await asyncio.shield(task):
            raise unauthorized("This key has ended.")

    async def _keep_looking(self) -> None:
        while self._uses:
            await asyncio.sleep(TRUST_SECONDS)
            asked = list(self._uses)
            try:
                valid = await self._database.read(valid_keys, asked)
            except StorageUnavailable:
                continue  # the end of a job is not known then, either
            except Exception as error:
                log_unexpected(error)
                continue
            for key_id in asked:
                if key_id not in valid and (use := self._uses.get(key_id)):
                    use.ended.set()

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
