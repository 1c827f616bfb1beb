"""Workers in subprocesses, with the restart policy that every deployment has."""

from __future__ import annotations

import re
import shlex
import signal
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil

from sandbox.service import Service
from sandbox.stack import WORKER_COMMAND
from tests.chaos.system import System
from tests.preloaded import Worker

_numbers = count(1)

_RESCUED = re.compile(r"worker lost: job rescued.* job=(\S+) lost=\S+:(\d+) ")


class Fleet:
    """The workers of a system. To be used in the main thread: children die with their thread.

    `app` names the module that Celery loads: `worker`, or one of the wrappers beside this file.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.members: list[Service] = []
        self.gone: list[Service] = []
        self.exits: list[int] = []

    def start(self, number: int = 1, app: str = "worker", **extra: str) -> list[Service]:
        """Start workers and wait until all of them consume."""
        started = [self.launch(app, **extra) for _ in range(number)]
        for worker in started:
            worker.wait_ready(lambda worker=worker: is_ready(worker))
        return started

    def launch(self, app: str = "worker", **extra: str) -> Service:
        """Start a worker and return at once."""
        number = next(_numbers)
        environment = self.system.environment | extra
        log = self.system.stack.logs / f"chaos-{number}.log"
        command = shlex.split(WORKER_COMMAND.format(app=app, name=f"chaos-{number}"))
        worker = Worker(command, environment, log).start()
        self.members.append(worker)
        return worker

    def tend(self) -> bool:
        """Replace workers that have exited; true, so that it can stand in a condition."""
        for worker in [member for member in self.members if not member.running]:
            assert worker.process is not None
            self.exits.append(worker.process.returncode)
            self._retire(worker)
            successor = Worker(worker.command, worker.environment, self._log()).start()
            self.members.append(successor)
        return True

    def kill(self, worker: Service) -> None:
        """SIGKILL, without a successor until `tend`."""
        worker.kill()

    def stop(self) -> None:
        """End every worker; those that are stopped by a signal are woken first."""
        for worker in self.members:
            if worker.running:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            self.gone.append(worker)
        self.members = []

    def logs(self) -> str:
        """What all workers logged, those that are gone included."""
        return "\n".join(worker.log_text() for worker in {*self.gone, *self.members})

    def rescued_from(self) -> list[tuple[str, int]]:
        """The job and the process id of the worker it was rescued from, for each logged rescue."""
        return [(job, int(pid)) for job, pid in _RESCUED.findall(self.logs())]

    def _retire(self, worker: Service) -> None:
        self.members.remove(worker)
        self.gone.append(worker)

    def _log(self) -> Path:
        return self.system.stack.logs / f"chaos-{next(_numbers)}.log"


def is_ready(worker: Service) -> bool:
    """Whether a worker consumes; each has a log of its own."""
    return " ready." in worker.log_text()


def freeze(pid: int) -> list[psutil.Process]:
    """SIGSTOP a process and its children; returns what `thaw` needs."""
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    return family


def thaw(family: list[psutil.Process]) -> None:
    """SIGCONT what was frozen."""
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.resume()
