"""What goes wrong, when, and to whom: decided by a seeded generator, done in the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from sandbox.claude.faults import Fault
from sandbox.server import Server
from tests.chaos.fleet import Fleet, is_ready

#: What Claude does wrong all along: about one call in five.
FAULTS = (
    Fault(status=529, rate=0.05, times=None),
    Fault(status=500, rate=0.03, times=None),
    Fault(status=504, rate=0.02, billed=True, times=None),
    Fault(status=429, headers={"retry-after": "1"}, rate=0.003, times=None),
    Fault(cut=True, at="headers", rate=0.03, times=None),
    Fault(stall=1, rate=0.02, times=None),
    Fault(broken_json=True, rate=0.02, times=None),
    Fault(content="wrong_type", rate=0.03, times=None),
)


class Monkey:
    """Kills workers and restarts servers at random moments; `act` does what is due."""

    def __init__(
        self,
        rng: Random,
        fleet: Fleet,
        *,
        kills: tuple[float, float],
        restarts: tuple[float, float],
    ) -> None:
        self._rng = rng
        self._fleet = fleet
        stack = fleet.system.stack
        self.killed: set[int] = set()
        self.restarted: list[str] = []
        self._due: list[tuple[Callable[[], None], tuple[float, float], float]] = []
        for action, every in (
            (self._kill_worker, kills),
            (lambda: self._restart(stack.postgres), restarts),
            (lambda: self._restart(stack.valkey), restarts),
        ):
            self._due.append((action, every, time.monotonic() + rng.uniform(*every)))

    def act(self) -> bool:
        """Do what is due, replace dead workers; true, so that it can stand in a condition."""
        for index, (action, every, at) in enumerate(self._due):
            if time.monotonic() >= at:
                action()
                self._due[index] = (action, every, time.monotonic() + self._rng.uniform(*every))
        return self._fleet.tend()

    def _kill_worker(self) -> None:
        # A worker that is still starting holds no job: killing it proves nothing.
        if ready := [worker for worker in self._fleet.members if is_ready(worker)]:
            victim = self._rng.choice(ready)
            self.killed.add(victim.pid)
            victim.kill()

    def _restart(self, server: Server) -> None:
        self.restarted.append(server.name)
        if self._rng.random() < 0.5:
            server.kill()
        else:
            server.stop()
        server.start()
