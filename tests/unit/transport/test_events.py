"""Events wait for each other, but not for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.events import EventDispatcher

from worker.transport import events
from worker.transport.events import EventGatheringConsumer


class Loop:
    """An event loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        callback(*arguments)

    def call_later(self, _seconds: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback in due:
            callback()


class Sent(list[int]):
    """A producer; the numbers of events in each message."""

    def publish(self, events: Any, **_: Any) -> None:
        self.append(len(events))


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def consumer(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("celery.worker.consumer.Consumer.on_close", lambda self: None)
    monkeypatch.setattr("celery.worker.consumer.Consumer.stop", lambda self: None)
    consumer: Any = object.__new__(EventGatheringConsumer)
    consumer._gathering, consumer._flush_at, consumer.hub = True, 0.0, Loop()
    consumer._flush_events_promise = consumer._flush_events
    consumer.event_dispatcher = EventDispatcher(
        app=Celery(broker="memory://", set_as_current=False),
        enabled=False,
        buffer_group=["task"],
        on_send_buffered=consumer.on_send_event_buffered,
    )
    consumer.event_dispatcher.enabled, consumer.event_dispatcher.producer = True, sent
    return consumer


def send(consumer: Any, count: int) -> None:
    for _ in range(count):
        consumer.event_dispatcher.send("task-started", uuid="1")


def test_what_comes_up_within_a_moment_is_one_message(consumer: Any, sent: Sent) -> None:
    send(consumer, 30)
    assert sent == []
    consumer.hub.pass_time()
    assert sent == [30]
    assert consumer.hub.later == []


def test_a_full_buffer_does_not_wait(consumer: Any, sent: Sent) -> None:
    send(consumer, events._MOST)
    assert sent == [events._MOST]


def test_a_plan_that_was_lost_with_its_connection_holds_up_nothing(
    consumer: Any, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_PAUSE", 0.0)
    send(consumer, 1)
    consumer.hub.later.clear()
    send(consumer, 1)
    consumer.hub.pass_time()
    assert sent == [2]


@pytest.mark.parametrize("end", ["on_close", "stop"])
def test_at_the_end_nothing_is_left(consumer: Any, sent: Sent, end: str) -> None:
    send(consumer, 2)
    getattr(consumer, end)()
    assert sent == [2]


def test_what_ends_after_the_loop_is_not_planned(consumer: Any, sent: Sent) -> None:
    consumer.stop()
    send(consumer, 1)
    assert sent == [1]
