"""Celery's events, several a message."""

from __future__ import annotations

import time
from typing import Any

from celery.worker.consumer import Consumer

#: How long an event waits for others (seconds).
_PAUSE = 0.2
#: So many do not wait; Celery's own bound is 24.
_MOST = 200


class EventGatheringConsumer(Consumer):  # type: ignore[misc]
    """Publishes a job's events together with those of its neighbours.

    Celery publishes whatever has come up in one turn of its loop. That is an event or two, at a
    tenth of a worker's CPU.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._gathering = True
        self._flush_at = 0.0
        super().__init__(*args, **options)

    def on_send_event_buffered(self) -> None:
        """An event was added to the buffer, by any thread."""
        if not self._gathering:
            super().on_send_event_buffered()
        elif time.monotonic() > self._flush_at:  # else it will be sent along by then
            self._flush_at = time.monotonic() + _PAUSE
            self.event_dispatcher.buffer_limit = _MOST
            # Through the loop: its timer is not for other threads.
            self.hub.call_soon(self.hub.call_later, _PAUSE, self._flush_events)

    def on_close(self) -> None:
        """The connection was lost: what waits is kept for the next one."""
        self._flush_events()
        super().on_close()

    def stop(self) -> None:
        """The loop has ended: from now on nothing waits for it."""
        self._gathering = False
        self._flush_events()
        super().stop()
