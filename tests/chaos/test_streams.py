"""Who follows a job while its worker is killed, and while Redis is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tasks import summarize_text
from tests.chaos.fleet import Fleet, freeze, thaw
from tests.chaos.system import System
from worker.engine.events import Delta, Result, Retrying
from worker.engine.job import Job

pytestmark = pytest.mark.usefixtures("producing")

LONG = {"text": "The fox jumps over the dog. " * 30, "max_words": 200, "audience": "everybody"}


class Follower:
    """Follows a job, until told what to wait for."""

    def __init__(self, job: Job[Any]) -> None:
        self._events = job.stream(timeout=60)
        self.seen: list[Any] = []

    def until(self, condition: Callable[[Any], bool]) -> None:
        """Go on to the first event for which `condition` holds."""
        for event in self._events:
            self.seen.append(event)
            if condition(event):
                return
        raise AssertionError(f"no such event in {[event.kind for event in self.seen]}")

    def to_the_end(self) -> list[Any]:
        self.seen += self._events
        return self.seen


def text_of(events: Sequence[Any]) -> str:
    """What a reader has at the end, who clears when told to."""
    text = ""
    for event in events:
        match event:
            case Delta(_, piece):
                text += piece
            case Retrying():
                text = ""
    return text


@pytest.fixture
def job(system: System) -> Job[Any]:
    """A job whose reply takes a second and a half to be written."""
    system.claude.configure(latency=0.2, tokens_per_second=100.0, chunk_tokens=2)
    return summarize_text.enqueue(**LONG, stream=True)


def is_text(event: Any) -> bool:
    return isinstance(event, Delta)


def assert_whole(events: Sequence[Any]) -> None:
    """The text that was not taken back is the result's, and the result is the last event."""
    last = events[-1]
    assert isinstance(last, Result)
    assert sum(isinstance(event, Result) for event in events) == 1
    assert summarize_text.output.model_validate_json(text_of(events)) == last.output


def test_a_worker_that_is_killed_while_it_streams_leads_to_a_new_beginning(
    system: System, fleet: Fleet, job: Job[Any]
) -> None:
    (worker,) = fleet.start()
    follower = Follower(job)
    follower.until(is_text)
    fleet.kill(worker)
    fleet.start()
    events = follower.to_the_end()

    assert sum(isinstance(event, Retrying) for event in events) == 1
    assert_whole(events)


def test_a_worker_that_stood_still_and_streams_on_is_not_heard(
    system: System, fleet: Fleet, job: Job[Any]
) -> None:
    (stopped,) = fleet.start()
    follower = Follower(job)
    follower.until(is_text)
    stopped.send_signal(signal.SIGSTOP)
    fleet.start()
    follower.until(lambda event: isinstance(event, Retrying))
    follower.until(is_text)
    # What Claude has sent meanwhile is waiting for it.
    stopped.send_signal(signal.SIGCONT)
    events = follower.to_the_end()

    assert sum(isinstance(event, Retrying) for event in events) == 1
    assert_whole(events)


def test_a_redis_that_is_flushed_while_a_job_streams_costs_its_readers_a_new_beginning(
    system: System, fleet: Fleet, job: Job[Any]
) -> None:
    fleet.start()
    follower = Follower(job)
    follower.until(is_text)
    system.broker().flushdb()
    events = follower.to_the_end()

    assert sum(isinstance(event, Retrying) for event in events) == 1
    assert_whole(events)
    assert system.count("state = 'succeeded' AND attempt = 1") == 1


@pytest.fixture(params=["gone", "frozen"])
def take_away(request: pytest.FixtureRequest, system: System) -> Iterator[Callable[[], None]]:
    """Takes Redis away, until the test is over."""
    valkey, frozen = system.stack.valkey, []

    def away() -> None:
        if request.param == "gone":
            valkey.kill()
        else:
            frozen.extend(freeze(valkey.pid))

    yield away
    if frozen:
        thaw(frozen)
    else:
        valkey.start()


def test_a_redis_that_is_away_keeps_no_job_from_ending_and_hides_no_result(
    system: System, fleet: Fleet, job: Job[Any], take_away: Callable[[], None]
) -> None:
    fleet.start()
    follower = Follower(job)
    follower.until(is_text)
    take_away()
    events = follower.to_the_end()
    late = list(job.stream(timeout=10))

    assert isinstance(events[-1], Result)
    assert late == [events[-1]]
    # It has ended while Redis is still away.
    assert [row["attempt"] for row in system.sql("SELECT attempt FROM jobs")] == [1]


def test_a_redis_that_comes_back_goes_on_showing_what_is_written(
    system: System, fleet: Fleet, job: Job[Any]
) -> None:
    system.claude.configure(tokens_per_second=30.0)
    fleet.start()
    follower = Follower(job)
    follower.until(is_text)
    system.stack.valkey.kill()
    system.stack.valkey.start()
    follower.until(lambda event: isinstance(event, Retrying))
    follower.until(is_text)
    events = follower.to_the_end()

    assert_whole(events)
    assert system.count("state = 'succeeded' AND attempt = 1") == 1
