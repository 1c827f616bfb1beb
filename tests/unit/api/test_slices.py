"""A batch is parsed in slices of the loop's time, and so are several."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from api import batches
from tests.gateway import BODY
from worker.engine.registry import load_registry
from worker.storage.api_keys import ApiKey
from worker.storage.enqueue import NewJob

KEY = ApiKey(UUID(int=1), "s", "", frozenset({"enqueue"}), None)


def test_others_have_their_turn_between_the_jobs_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_SLICE_SECONDS", 0.0)
    begun: list[str | None] = []
    parse = batches.parse_named

    def noting(body: Any, *rest: Any) -> NewJob:
        begun.append(body["user_id"])
        return parse(body, *rest)

    monkeypatch.setattr(batches, "parse_named", noting)

    async def take_in() -> tuple[int, list[Any]]:
        here: Any = SimpleNamespace(registry=load_registry(), slices=asyncio.Lock())
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        bodies = [
            json.dumps({"jobs": [BODY | {"user_id": name}] * 50}).encode() for name in ("a", "b")
        ]
        parsed = await asyncio.gather(
            *(batches._parse_all(here, KEY, body, None) for body in bodies)
        )
        ticking.cancel()
        return turns, parsed

    turns, parsed = asyncio.run(take_in())
    assert [len(jobs) for jobs in parsed] == [50, 50]
    assert turns >= 100
    assert begun[:6] in (["a", "b"] * 3, ["b", "a"] * 3)
