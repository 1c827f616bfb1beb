"""Whose webhook is posted next."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

from worker.engine.delivery_slots import DeliverySlots
from worker.storage.webhook_queue import Due, Ended

_BEGINNING = datetime(2026, 11, 25, tzinfo=UTC)
_seconds = count()


def due(host: str, service: str | None = None, number: int = 1) -> list[Due]:
    """Deliveries that are due later than all that were made before."""
    return [
        Due(uuid4(), service, host, _BEGINNING + timedelta(seconds=next(_seconds)))
        for _ in range(number)
    ]


def begun(each: Due) -> Ended:
    return Ended(
        each.id, "http://x/", each.host, 1, uuid4(), each.service, "t", "failed", each.since, None
    )


def begin(slots: DeliverySlots, waiting: list[Due]) -> list[Due]:
    """Post what may be posted."""
    chosen = slots.choose(waiting)
    for each in chosen:
        slots.take(begun(each))
    return chosen


def test_of_a_host_only_so_many_are_under_way_however_often_it_is_asked() -> None:
    slots = DeliverySlots(32, per_host=4)
    waiting = due("a", number=50)

    first = begin(slots, waiting)
    assert first == waiting[:4]  # those that are due longest
    assert slots.busy_hosts() == ["a"]
    assert begin(slots, waiting[4:]) == []

    slots.give_back(begun(first[0]))
    assert slots.busy_hosts() == []
    assert begin(slots, waiting[4:]) == waiting[4:5]
    assert slots.taken == 4


def test_a_service_leaves_as_many_slots_free_as_it_takes() -> None:
    slots = DeliverySlots(32, per_host=4)
    taken = []
    for service in ("first", "second", "third"):
        hosts = [each for n in range(100) for each in due(f"{service}-{n}", service)]
        taken.append(len(begin(slots, hosts)))
        assert begin(slots, hosts) == []

    assert taken == [16, 8, 4]
    assert len(begin(slots, due("x", "fourth"))) == 1


def test_services_that_come_together_are_served_in_turns() -> None:
    slots = DeliverySlots(32, per_host=4)
    many = [each for n in range(100) for each in due(f"many-{n}", "many")]
    few = [each for n in range(100) for each in due(f"few-{n}", "few")]

    chosen = begin(slots, many + few)

    assert Counter(each.service for each in chosen) == {"many": 11, "few": 11}


def test_hosts_of_a_service_are_served_in_turns() -> None:
    slots = DeliverySlots(6, per_host=4)
    backlog, later, last = due("backlog", number=9), due("later"), due("last")

    assert begin(slots, backlog + later + last) == [backlog[0], later[0], last[0]]


def test_a_service_s_backlog_at_a_host_leaves_room_for_another_service_there() -> None:
    slots = DeliverySlots(32, per_host=4)
    backlog, other = due("same", "many", 50), due("same", "few")

    assert other[0] in begin(slots, backlog + other)


def test_what_is_chosen_takes_no_slot_before_it_begins() -> None:
    slots = DeliverySlots(2, per_host=4)
    waiting = due("a")

    assert slots.choose(waiting) == slots.choose(waiting) == waiting
    assert slots.taken == 0
