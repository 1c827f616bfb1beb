"""Calls that another thread can end: at their deadline, on cancel, at shutdown.

A timeout of the HTTP library bounds inactivity, not time: a server that sends a byte a second
would hold a call for ever. So one thread per process watches the clock for all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.claude.clients import CallClient
from worker.claude.facts import Reason

#: How far past its deadline a call may run, in seconds.
_RESOLUTION = 0.25


class CallControl:
    """One call, seen from the threads that may end it. The first reason given stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: CallClient | None = None
        self._ended = threading.Event()
        self._bell: threading.Event | None = None
        self.deadline: float | None = None
        #: When a stream that has begun counts as stalled.
        self.silent_until: float | None = None
        self.reason: Reason | None = None

    def abort(self, reason: Reason) -> None:
        """End the call, or keep it from being made."""
        with self._lock:
            self.reason = self.reason or reason
            self._ended.set()
            if self._bell is not None:
                self._bell.set()
            if self._client is not None:
                self._client.shut_down()

    def wait(self, seconds: float) -> bool:
        """Wait before the call; True if it was ended meanwhile."""
        return self._ended.wait(seconds)

    @contextmanager
    def ringing(self, bell: threading.Event) -> Iterator[None]:
        """The block in which `bell` is set as well when the call is ended."""
        with self._lock:
            self._bell = bell
            if self._ended.is_set():
                bell.set()
        try:
            yield
        finally:
            with self._lock:
                self._bell = None

    def forgive(self) -> None:
        """The reply is complete after all: that it was late does not concern the next call."""
        with self._lock:
            if self.reason in ("timeout", "stalled"):
                self.reason = None
                self._ended.clear()

    @contextmanager
    def using(self, client: CallClient, timeout: float) -> Iterator[None]:
        """The block in which `client` makes the call, for `timeout` seconds at most."""
        with self._lock:
            self._client = client
            self.deadline = time.monotonic() + timeout
        try:
            yield
        finally:
            # Under the lock: nobody may shut down the socket of the client's next call.
            with self._lock:
                self._client = None
                self.deadline = self.silent_until = None

    def expect_more(self, seconds: float) -> None:
        """The next byte of a stream must come within so many seconds."""
        self.silent_until = time.monotonic() + seconds


class Watchdog:
    """Aborts calls that are late or have stalled, and those that connected after an abort."""

    def __init__(self) -> None:
        self._controls: set[CallControl] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; calls are left to themselves."""
        self._stop.set()

    @contextmanager
    def watching(self, control: CallControl) -> Iterator[None]:
        """The block in which the call is watched."""
        self._controls.add(control)
        try:
            yield
        finally:
            self._controls.discard(control)

    def _run(self) -> None:
        while not self._stop.wait(_RESOLUTION):
            now = time.monotonic()
            for control in self._controls.copy():
                deadline, silent_until = control.deadline, control.silent_until
                if deadline is not None and now > deadline:
                    control.abort("timeout")
                elif silent_until is not None and now > silent_until:
                    control.abort("stalled")
                elif control.reason is not None:
                    control.abort(control.reason)
