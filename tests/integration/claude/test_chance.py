"""Random faults: how many they strike, which, and that a run can be repeated."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import anthropic
import pytest
from anthropic import Anthropic

from sandbox.claude.client import SimulatedClaude
from sandbox.claude.faults import Content, Fault, FaultScript
from sandbox.claude.mixes import FAULT_MIXES, mix
from tests.integration.claude.asking import ANALYSIS, ask, post, request, text_of


def test_match_times_and_rate_choose_the_requests(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(
        Fault(match="harbour", status=500, times=2),
        Fault(match="meadow", reply="sometimes", times=None, rate=0.5),
    )
    assert ask(sdk, "A meadowless text").stop_reason == "end_turn"
    for _ in range(2):
        with pytest.raises(anthropic.InternalServerError):
            ask(sdk)
    assert ask(sdk).stop_reason == "end_turn"

    replies = [text_of(ask(sdk, "The meadow")) for _ in range(40)]
    assert 5 < replies.count("sometimes") < 35
    assert len(claude.remaining_faults()) == 1
    claude.clear_faults()
    assert claude.remaining_faults() == []


def struck(claude: SimulatedClaude, bodies: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    """Which fault each body met, in order of its turns, after all were sent side by side."""
    claude.reset()
    claude.faults({"reply": "one", "rate": 0.3, "times": None}, *mix("content", rate=0.4))
    with ThreadPoolExecutor(threads) as pool:
        assert all(r.status_code == 200 for r in pool.map(lambda b: post(claude, b), bodies))
    met: dict[str, Counter[str | None]] = {}
    for entry in claude.ledger():
        met.setdefault(entry.body_sha256, Counter())[entry.fault] += 1
    return met


def test_which_requests_are_struck_does_not_depend_on_their_order(claude: SimulatedClaude) -> None:
    bodies = [request(f"Text {number % 20}", max_tokens=50) for number in range(60)]

    first = struck(claude, bodies, threads=1)
    second = struck(claude, bodies[::-1], threads=8)

    assert first == second
    assert len({str(faults) for faults in first.values()}) > 3
    with SimulatedClaude(seed=8) as other:
        assert struck(other, bodies, threads=1) != first


@pytest.mark.parametrize("name", FAULT_MIXES)
@pytest.mark.parametrize("stream", [True, False])
def test_a_mix_strikes_the_share_that_it_was_asked_for(name: str, stream: bool) -> None:
    script = FaultScript(seed=3)
    script.append(mix(name, rate=0.2))
    hits = [script.strike(b"", f"{number}", stream=stream) for number in range(5_000)]

    assert 900 < sum(hit is not None for hit in hits) < 1100
    assert all(hit.stream in (None, stream) for hit in hits if hit is not None)


def test_a_mix_keeps_its_proportions() -> None:
    script = FaultScript(seed=3)
    script.append(mix("rough", rate=1.0))
    hits = Counter(
        fault.name
        for number in range(20_000)
        if (fault := script.strike(b"", f"{number}", stream=False))
    )

    weighted = (*FAULT_MIXES["rough"].common, *FAULT_MIXES["rough"].plain)
    total = sum(weight for weight, _ in weighted)
    assert sum(hits.values()) == 20_000
    for name, weight in (("status:529", 20), ("content:fenced", 3), ("broken_json", 3)):
        assert 0.8 < hits[name] / (20_000 * weight / total) < 1.2


def test_rough_has_every_kind_of_fault() -> None:
    faults = mix("rough")

    assert {fault.content for fault in faults} >= set(get_args(Content))
    assert {fault.status for fault in faults} >= {
        *(400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529, 200)
    }
    fields = "cut stall eof sse_error broken_json billed delay stop_reason"
    for field in fields.split():
        assert any(getattr(fault, field) for fault in faults), field
    assert any(fault.swallow for fault in mix("everything"))
    assert {402, 400} <= {fault.status for fault in mix("everything")}


def test_a_rough_day_over_http(sdk: Anthropic, claude: SimulatedClaude) -> None:
    claude.faults(*mix("rough", rate=0.9, hold=0.05))

    def attempt(number: int) -> str:
        try:
            return text_of(ask(sdk, f"Text {number}", output_config=ANALYSIS))
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(attempt, range(150)))

    faults = {entry.fault for entry in claude.ledger()}
    assert len(faults) > 15
    assert "OverloadedError" in outcomes
    assert all(entry.outcome not in ("crashed", "in_flight") for entry in claude.ledger())


def test_an_unknown_mix_is_named() -> None:
    with pytest.raises(ValueError, match="no fault mix 'rouh'; there are rough"):
        mix("rouh")
    with pytest.raises(ValueError, match="between 0 and 1"):
        mix("rough", rate=20)
    assert mix("rough", rate=0)[0] == Fault(status=529, times=None, rate=0)
