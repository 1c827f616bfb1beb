"""Taking turns, each service by itself."""

from __future__ import annotations

import asyncio

from api.waiting import Turns


def test_so_many_of_a_service_at_once_and_no_other_waits_for_them() -> None:
    async def take_turns() -> None:
        turns, begun, go_on = Turns(2), list[str](), asyncio.Event()

        async def hold(service: str, name: str) -> None:
            async with turns.one(service):
                begun.append(name)
                await go_on.wait()

        names = [("shop", "1"), ("shop", "2"), ("shop", "3"), ("shop", "4"), ("mail", "5")]
        first, _, third, fourth, _ = held = [asyncio.create_task(hold(*name)) for name in names]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == ["1", "2", "5"]

        third.cancel()  # its client has gone while it waited
        first.cancel()
        await asyncio.wait([first, third])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == ["1", "2", "5", "4"]

        go_on.set()
        await asyncio.gather(*held, return_exceptions=True)
        assert not fourth.cancelled()
        assert (turns._turns, turns._here) == ({}, {})  # nothing is kept of who has gone

    asyncio.run(take_turns())
