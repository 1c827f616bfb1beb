"""A fleet at the limit, in simulated time: it uses what there is, and is hardly ever refused."""

from __future__ import annotations

import pytest

from benchmarks.limitsim import Scenario, simulate
from sandbox.stack import Stack

INPUT_BINDS = (6000.0, 600e3, 2.4e6)


@pytest.mark.parametrize("headers_at", ["arrival", "completion"])
def test_a_fleet_uses_its_limit_and_follows_it(stack: Stack, headers_at: str) -> None:
    url = stack.valkey.url.removesuffix("/0") + "/1003"
    scenario = Scenario(
        INPUT_BINDS,
        seconds=110,
        input=2000,
        spread=0.1,
        workers=40,
        max_wait=10,
        headers_at=headers_at,
        changes=((60, 0.5),),
    )
    outcome = simulate(url, scenario)

    assert outcome.rate(1, 30, 60) >= 0.97 * INPUT_BINDS[1]
    assert outcome.rate(1, 80, 110) == pytest.approx(INPUT_BINDS[1] / 2, rel=0.06)
    assert outcome.refused <= 0.005 * outcome.sent
