"""What is in Redis between a message's arrival and its acknowledgement, with kombu patched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub, set_event_loop

from worker.transport import redis_patch

QUEUE = Queue("patched", exchange="", routing_key="patched")


@pytest.fixture(autouse=True)
def patched() -> None:
    assert redis_patch.apply()


@pytest.fixture
def hub() -> Iterator[Any]:
    """The event loop of a worker; here it only turns when it is told to."""
    hub: Any = Hub()
    set_event_loop(hub)
    yield hub
    hub.close()
    set_event_loop(None)


@pytest.fixture
def broker(environment: dict[str, str]) -> Iterator[Any]:
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        yield client


@pytest.fixture
def connection(environment: dict[str, str]) -> Iterator[Any]:
    with Connection(environment["REDIS_URL"]) as connection, Producer(connection) as producer:
        for body in ("first", "second"):
            producer.publish(body, routing_key=QUEUE.name)
        yield connection


def receive(connection: Any) -> Any:
    """The next message."""
    received: list[Any] = []
    with Consumer(connection, [QUEUE], on_message=received.append):
        connection.drain_events(timeout=5)
    (message,) = received
    return message


def kept(broker: Any) -> int:
    """How many messages would come again if this process died now."""
    assert broker.hlen("unacked") == broker.zcard("unacked_index")
    return int(broker.hlen("unacked"))


def test_an_acknowledgement_travels_with_the_next_message(
    connection: Any, broker: Any, hub: Any
) -> None:
    first = receive(connection)
    first.ack()
    assert kept(broker) == 1
    second = receive(connection)
    assert kept(broker) == 1
    assert second.delivery_tag.encode() in broker.hkeys("unacked")


def test_without_a_next_message_it_leaves_after_a_moment(
    connection: Any, broker: Any, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_patch, "_ACK_PAUSE", 0.0)
    receive(connection).ack()
    assert kept(broker) == 1
    hub.fire_timers()
    assert kept(broker) == 0


def test_without_an_event_loop_it_leaves_at_once(connection: Any, broker: Any) -> None:
    receive(connection).ack()
    assert kept(broker) == 0


def test_closing_acknowledges_what_is_done_and_returns_the_rest(
    connection: Any, broker: Any, hub: Any
) -> None:
    receive(connection).ack()
    receive(connection).channel.close()
    assert kept(broker) == 0
    assert broker.llen(QUEUE.name) == 1


def test_a_broker_that_is_gone_is_no_reason_to_fail(connection: Any, hub: Any) -> None:
    message = receive(connection)
    message.ack()
    message.channel.pool.disconnect()
    message.channel.pool.connection_kwargs["port"] = 9
    redis_patch._flush(message.channel.qos)
    hub.fire_timers()


def test_a_message_comes_back_as_kombu_would_bring_it_back(
    connection: Any, broker: Any, hub: Any
) -> None:
    first = receive(connection)
    first.channel.qos.restore_by_tag(first.delivery_tag)
    again = receive(connection)
    assert again.payload == first.payload
    assert again.delivery_info["redelivered"]
