"""The warm gate over a real Valkey: two gates are two processes, threads are their calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import redis

from tasks import summarize_text
from worker.claude.failures import CallFailed
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply, Tokens
from worker.claude.request import Request
from worker.engine.prefix import Prefix, prefix_of
from worker.engine.prompts import get_prompts
from worker.engine.rendering import OutputSchema, render_request
from worker.engine.warmgate import Passage, WarmGate
from worker.engine.warmth import Warmth

Eventually = Callable[..., None]

PREFIX = Prefix("prompt", "schema", "claude-sonnet-5-5", "5m")
WRITTEN, READ, NEITHER = Tokens(cache_write_5m=2000), Tokens(cache_read=2000), Tokens(input=500)
#: Longer than any test takes.
PATIENT = 60.0


class Fleet:
    """Gates on one Redis, and the calls that wait at them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = ThreadPoolExecutor(64)
        self.warmths: list[Warmth] = []
        self.controls: list[CallControl] = []

    def gate(self, patience: float = PATIENT, lifetime: float = 300.0) -> WarmGate:
        warmth = Warmth(self.url)
        self.warmths.append(warmth)
        return WarmGate(warmth, patience, {"5m": lifetime, "1h": lifetime})

    def enter(self, gate: WarmGate, prefix: Prefix = PREFIX) -> Future[Passage]:
        control = CallControl()
        self.controls.append(control)
        return self.calls.submit(gate.enter, prefix, control)

    def close(self) -> None:
        for control in self.controls:
            control.abort("shutdown")
        self.calls.shutdown()
        for warmth in self.warmths:
            warmth.close()


@pytest.fixture
def fleet(environment: dict[str, str]) -> Iterator[Fleet]:
    fleet = Fleet(environment["REDIS_URL"])
    yield fleet
    fleet.close()


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        yield client


def replied(tokens: Tokens, seconds: float = 0.0) -> Reply:
    return Reply(
        text="",
        stop_reason="end_turn",
        model=PREFIX.model,
        tokens=tokens,
        service_tier=None,
        request_id=None,
        latency_ms=round(seconds * 1000),
    )


def passed(calls: list[Future[Passage]]) -> list[Passage]:
    return [call.result() for call in calls if call.done()]


def asked(server: redis.Redis) -> int:
    """How often Redis was asked for how a prefix stands."""
    return int(server.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def test_one_call_of_all_processes_leads_and_the_rest_follows_when_it_begins(
    fleet: Fleet, eventually: Eventually
) -> None:
    gates = [fleet.gate(), fleet.gate()]
    calls = [fleet.enter(gate) for gate in gates * 20]
    eventually(lambda: bool(passed(calls)))
    (leader,) = passed(calls)
    assert leader.leads

    leader.begun(WRITTEN)

    everybody = [call.result(timeout=10) for call in calls]
    assert [passage.leads for passage in everybody].count(True) == 1


def test_a_leader_that_gives_up_is_followed_by_another_of_any_process(
    fleet: Fleet, eventually: Eventually
) -> None:
    first, second = fleet.gate(), fleet.gate()
    leader = fleet.enter(first).result(timeout=5)
    near, far = fleet.enter(first), fleet.enter(second)
    with leader:
        assert not near.done()
        assert not far.done()
        # Left without a reply having begun.
    eventually(lambda: near.done() or far.done())
    (next_leader,) = passed([near, far])
    assert next_leader.leads
    next_leader.begun(WRITTEN)
    assert [near.result(5).leads, far.result(5).leads].count(True) == 1


def test_a_leader_without_a_sign_of_life_is_replaced(
    fleet: Fleet, eventually: Eventually, server: redis.Redis
) -> None:
    # Another process took the lead, and died.
    key = f"claude-jobs:warm:{PREFIX.key}"
    server.set(key, "somebody")

    call = fleet.enter(fleet.gate())
    eventually(lambda: asked(server) > 3)
    assert not call.done()
    server.pexpire(key, 1)

    assert call.result(timeout=20).leads


def test_a_leader_that_lives_stays_for_longer_than_its_key_does(
    fleet: Fleet, eventually: Eventually, server: redis.Redis
) -> None:
    leader = fleet.enter(fleet.gate()).result(timeout=5)
    key = f"claude-jobs:warm:{PREFIX.key}"
    held = server.get(key)
    eventually(lambda: int(server.pttl(key)) < 2200)
    eventually(lambda: int(server.pttl(key)) > 2500)

    assert server.get(key) == held
    with leader:
        pass
    assert server.get(key) is None


def test_a_follower_waits_no_longer_than_its_patience(fleet: Fleet) -> None:
    patient, hasty = fleet.gate(), fleet.gate(patience=0.3)
    assert fleet.enter(patient).result(timeout=5).leads
    assert fleet.enter(hasty).result(timeout=20).leads is False


def test_nobody_waits_at_a_gate_that_is_off(fleet: Fleet, server: redis.Redis) -> None:
    gate = fleet.gate(patience=0.0)
    assert [fleet.enter(gate).result(timeout=5).leads for _ in range(3)] == [False] * 3
    assert server.keys() == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_call_that_is_ended_waits_no_longer(
    fleet: Fleet, number: int, eventually: Eventually
) -> None:
    """Of two that wait in a process, one asks Redis and the other waits for it."""
    assert fleet.enter(fleet.gate()).result(timeout=5).leads
    gate = fleet.gate()
    waiting = [fleet.enter(gate)]
    eventually(lambda: PREFIX in gate._states)
    waiting.append(fleet.enter(gate))
    eventually(lambda: len(gate._states[PREFIX].waiting) == 2)

    fleet.controls[1 + number].abort("cancelled")

    with pytest.raises(CallFailed) as caught:
        waiting[number].result(timeout=5)
    assert caught.value.facts.aborted == "cancelled"
    assert not waiting[1 - number].done()


def test_a_warm_prefix_costs_no_round_trip(fleet: Fleet, server: redis.Redis) -> None:
    gate = fleet.gate()
    fleet.enter(gate).result(timeout=5).begun(WRITTEN)
    before = asked(server)
    for _ in range(50):
        passage = fleet.enter(gate).result(timeout=5)
        assert not passage.leads
        passage.answered(replied(READ))
    assert asked(server) == before


def test_another_process_hears_of_a_warm_prefix_from_redis(fleet: Fleet) -> None:
    fleet.enter(fleet.gate()).result(timeout=5).begun(WRITTEN)
    assert not fleet.enter(fleet.gate()).result(timeout=5).leads


def test_a_prefix_that_claude_does_not_cache_is_waited_for_once(fleet: Fleet) -> None:
    gate = fleet.gate()
    leader = fleet.enter(gate).result(timeout=5)
    waiting = fleet.enter(gate)
    leader.begun(NEITHER)

    assert not waiting.result(timeout=5).leads
    assert not fleet.enter(fleet.gate()).result(timeout=5).leads


def test_a_prefix_that_is_cached_after_all_is_waited_for_again(
    fleet: Fleet, eventually: Eventually
) -> None:
    gate = fleet.gate(lifetime=0.2)
    fleet.enter(gate).result(timeout=5).begun(NEITHER)
    fleet.enter(gate).result(timeout=5).answered(replied(WRITTEN))
    eventually(lambda: fleet.enter(gate).result(timeout=5).leads)


@pytest.mark.parametrize(("seconds", "is_warm"), [(90.0, True), (99.0, False)])
def test_a_reply_renews_the_prefix_from_when_it_was_asked_for(
    fleet: Fleet, seconds: float, is_warm: bool
) -> None:
    gate = fleet.gate(lifetime=100.0)
    with fleet.enter(gate).result(timeout=5) as passage:
        passage.answered(replied(READ, seconds))
    assert fleet.enter(gate).result(timeout=5).leads is not is_warm


def test_without_redis_each_process_has_a_leader(eventually: Eventually) -> None:
    fleet = Fleet("redis://127.0.0.1:9/0")
    gates = [fleet.gate(), fleet.gate()]
    calls = [fleet.enter(gate) for gate in gates * 5]
    eventually(lambda: len(passed(calls)) == 2)
    for leader in passed(calls):
        assert leader.leads
        leader.begun(WRITTEN)
    assert [call.result(timeout=5).leads for call in calls].count(True) == 2
    fleet.close()


def test_a_redis_that_answers_nothing_holds_up_nobody(
    fleet: Fleet, server: redis.Redis, eventually: Eventually
) -> None:
    gate = fleet.gate()
    pause = threading.Thread(target=server.execute_command, args=("CLIENT", "PAUSE", "1000"))
    pause.start()
    pause.join()
    calls = [fleet.enter(gate) for _ in range(5)]
    eventually(lambda: bool(passed(calls)), seconds=5)
    passed(calls)[0].begun(WRITTEN)
    assert [call.result(timeout=5).leads for call in calls].count(True) == 1


def test_only_what_is_cached_and_long_enough_has_a_prefix() -> None:
    prompt = get_prompts().get("summarize_text", "1.0")
    schema = OutputSchema('{"type": "object"}')
    values = {"text": "t", "max_words": 50, "audience": "a"}
    request: Request = render_request(prompt, prompt.file.model, values, schema, None)
    assert prefix_of(prompt, schema, request) is None

    cached = prompt.file.model_copy(update={"cache": "1h"})
    prompt = type(prompt)(prompt.name, prompt.version, cached)
    request = render_request(prompt, "claude-opus-5-5", values, schema, None)
    prefix = prefix_of(prompt, schema, request)
    assert prefix is not None
    assert (prefix.model, prefix.lifetime) == ("claude-opus-5-5", "1h")
    assert summarize_text.name not in prefix.key

    short = type(prompt)(prompt.name, "2.0", cached.model_copy(update={"system": "Be brief."}))
    request = render_request(short, "claude-opus-5-5", values, schema, None)
    assert prefix_of(short, schema, request) is None
