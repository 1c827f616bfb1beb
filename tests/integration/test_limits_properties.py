"""Whatever is asked in whatever order: never more than the buckets hold, never while closed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.stack import Stack
from tests.integration.limits_world import LIMITS, MODEL, World, headers, sent, settle
from worker.limits.limiter import Limiter
from worker.limits.types import Cost, Reservation

NOWHERE = "redis://127.0.0.1:9/0"

Step = tuple[str, float, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.floats(0, 60_000), st.floats(0, 20_000)),
        st.tuples(st.just("pass"), st.floats(0, 20), st.just(0.0)),
        st.tuples(st.just("429"), st.floats(0, 30), st.just(0.0)),
        st.tuples(st.just("drop"), st.just(0.0), st.just(0.0)),
    ),
    max_size=40,
)


class Queue:
    """Callers that do as they are told, and a record of what they send and when."""

    def __init__(self, world: World, limiters: list[Limiter]) -> None:
        self.world, self.limiters = world, limiters
        self.waiting: list[tuple[float, Limiter, Reservation]] = []
        self.sent: list[tuple[float, Limiter, Reservation]] = []
        self.history: list[tuple[float, Cost]] = []
        self.closed_until = 0.0

    def ask(self, cost: Cost) -> None:
        limiter = self.limiters[len(self.history) % len(self.limiters)]
        admission = limiter.admit(MODEL, cost, 30)
        if admission.reservation is None:
            assert admission.wait > 30
        elif admission.wait:
            due = self.world.now + admission.wait
            self.waiting.append((due, limiter, admission.reservation))
        else:
            self._send(limiter, admission.reservation)

    def let_pass(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self.waiting:
            self.waiting.sort(key=lambda one: one[0])
            due, limiter, reservation = self.waiting[0]
            if due > until:
                break
            self.waiting.pop(0)
            self.world.now = max(self.world.now, due)
            wait = limiter.confirm(reservation)
            if wait:
                self.waiting.append((self.world.now + wait, limiter, reservation))
            else:
                self._send(limiter, reservation)
        self.world.now = until

    def refuse(self, seconds: float) -> None:
        if self.sent:
            _, limiter, reservation = self.sent.pop()
            self.closed_until = max(self.closed_until, self.world.now + seconds)
            limiter.rejected(reservation, {"retry-after": repr(seconds)}, "rate_limited")

    def drop(self) -> None:
        if self.waiting:
            _, limiter, reservation = self.waiting.pop(0)
            limiter.release(reservation)

    def _send(self, limiter: Limiter, reservation: Reservation) -> None:
        assert self.world.now >= self.closed_until - 1e-6
        self.sent.append((self.world.now, limiter, reservation))
        self.history.append((self.world.now, reservation.cost))


def run(world: World, limiters: list[Limiter], steps: list[Step]) -> Queue:
    queue = Queue(world, limiters)
    for action, first, second in steps:
        match action:
            case "ask":
                queue.ask(Cost(first, second))
            case "pass":
                queue.let_pass(first)
            case "429":
                queue.refuse(first)
            case "drop":
                queue.drop()
    queue.let_pass(40)
    return queue


def assert_within(queue: Queue, limits: tuple[float, ...]) -> None:
    """In no window more than a full bucket and what flows in meanwhile."""
    for start, (begin, _) in enumerate(queue.history):
        total = [0.0, 0.0, 0.0]
        for end, cost in queue.history[start:]:
            for bucket, amount in enumerate((1.0, cost.input, cost.output)):
                total[bucket] += amount
                assert total[bucket] <= limits[bucket] * (1 + (end - begin) / 60) + 1e-3


@pytest.fixture
def shared_url(stack: Stack) -> str:
    return stack.valkey.url.removesuffix("/0") + "/1002"


@settings(suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_redis_never_lets_more_through(shared_url: str, steps: list[Step]) -> None:
    world = World(shared_url)
    limiters = [world.told(), world.limiter(), world.limiter()]
    assert_within(run(world, limiters, steps), LIMITS)
    world.close()


@settings(suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_a_process_without_redis_never_lets_more_through(
    shared_url: str, steps: list[Step]
) -> None:
    world = World(shared_url)
    world.url = NOWHERE
    limiter = world.limiter()
    settle(limiter, sent(limiter), headers())
    assert_within(run(world, [limiter], steps), tuple(limit / 2 for limit in LIMITS))
    world.close()
