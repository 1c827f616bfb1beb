"""Whose webhook is posted next: a backlog of one host or service must not hold up the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from worker.storage.webhook_queue import Due, Ended


class DeliverySlots:
    """What is under way in this process, and what may join it.

    Two rules. Of a host no more than `per_host` are under way. And a service takes no more slots
    than it leaves free: a single one half of them, two a third each. So however many hosts a
    service has that hang, some are left for the next one.
    """

    def __init__(self, total: int, per_host: int) -> None:
        self._total = total
        self._per_host = per_host
        self._hosts: Counter[str] = Counter()
        self._services: Counter[str | None] = Counter()
        self._lock = threading.Lock()
        #: Set when one is given back; whoever waits for that clears it.
        self.given_back = threading.Event()

    @property
    def taken(self) -> int:
        """How many are under way."""
        with self._lock:
            return self._hosts.total()

    def busy_hosts(self) -> list[str]:
        """Hosts of which no more may be posted now."""
        with self._lock:
            return [host for host, taken in self._hosts.items() if taken >= self._per_host]

    def choose(self, due: Sequence[Due]) -> list[Due]:
        """Which of these to claim. Takes no slot yet: another worker may be quicker.

        First of the service that has the fewest under way, then of the host, then what is due
        longest.
        """
        with self._lock:
            hosts, services = self._hosts.copy(), self._services.copy()
        free = self._total - hosts.total()
        by_age = sorted(due, key=lambda it: it.since)
        by_host = _in_turns(by_age, lambda it: (it.service, it.host), lambda it: hosts[it.host])
        by_service = _in_turns(by_host, lambda it: it.service, lambda it: services[it.service])
        chosen = []
        for each in by_service:
            if hosts[each.host] < self._per_host and services[each.service] < free:
                chosen.append(each)
                hosts[each.host] += 1
                services[each.service] += 1
                free -= 1
        return chosen

    def take(self, ended: Ended) -> None:
        """Count one that begins."""
        with self._lock:
            self._hosts[ended.host] += 1
            self._services[ended.service] += 1

    def give_back(self, ended: Ended) -> None:
        """Count one that is over."""
        with self._lock:
            # So no zeros are left: hosts come and go.
            self._hosts -= Counter([ended.host])
            self._services -= Counter([ended.service])
        self.given_back.set()


def _in_turns(
    due: Sequence[Due], queue: Callable[[Due], Hashable], taken: Callable[[Due], int]
) -> list[Due]:
    """The first of each queue, then the second of each …; one that has some `taken` is behind."""
    places: Counter[Hashable] = Counter()

    def place(each: Due) -> int:
        places[queue(each)] += 1
        return taken(each) + places[queue(each)]

    return sorted(due, key=place)
