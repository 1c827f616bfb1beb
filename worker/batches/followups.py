"""Mending replies of batches: the follow-up calls of the attempt, made one by one, here and now.

A member that needs one becomes a job of this worker, in the transaction that settles its reply and
opens the follow-up's call. From there on it is like any other: held by a lease, rescued if the
worker dies, at full price and within the rate limits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import structlog

from worker.claude.request import Request
from worker.engine.attempt import Attempts
from worker.engine.holdings import Holdings
from worker.engine.patience import persistently
from worker.engine.prepare import Prepared
from worker.engine.settling import OpenCall
from worker.settings import Settings
from worker.storage import batch_members, settle
from worker.storage.engine import transaction
from worker.storage.models import TERMINAL_STATES
from worker.storage.settle import CallRecord

log = structlog.get_logger(__name__)

#: Follow-ups of one worker at a time; the ingest waits for a free place.
_AT_A_TIME = 8


class FollowUps:
    """Makes follow-up calls, each in a thread of its own; a few at a time."""

    def __init__(
        self,
        settings: Settings,
        attempts: Attempts,
        holdings: Holdings,
        worker: str,
        ended: Callable[[UUID], None],
    ) -> None:
        self._settings = settings
        self._attempts = attempts
        self._holdings = holdings
        self._worker = worker
        self._ended = ended
        self._free = threading.Semaphore(_AT_A_TIME)

    def take_over(
        self, opened: OpenCall, record: CallRecord, request: Request, prepared: Prepared
    ) -> None:
        """Settle a member's reply as `record`, and ask `request` next, once a thread is free.

        A worker that is about to end leaves the member as it is, for the next one.
        """
        while not self._free.acquire(timeout=0.5):
            if self._holdings.ending.is_set():
                return
        try:
            usage_id = persistently(
                lambda: self._hand_over(opened, record, request), self._holdings.ending
            )
        except BaseException:
            self._free.release()
            raise
        if usage_id is None:
            self._free.release()
            return
        following = replace(opened, usage_id=usage_id, source="api")
        threading.Thread(
            target=self._run,
            args=(following, replace(prepared, request=request)),
            name="follow-up",
            daemon=True,
        ).start()

    def close(self, seconds: float = 5.0) -> None:
        """Wait until the calls under way have ended; they were cut off, or are about to be."""
        until = time.monotonic() + seconds
        for _ in range(_AT_A_TIME):
            self._free.acquire(timeout=max(0.0, until - time.monotonic()))

    def _hand_over(self, opened: OpenCall, record: CallRecord, request: Request) -> int | None:
        with transaction() as connection:
            usage_id = settle.next_call(
                connection,
                opened.claim,
                opened.usage_id,
                record,
                model=request.model,
                max_tokens=request.max_tokens,
                correction=request.correction and request.correction._asdict(),
            )
            if usage_id is not None:
                lease = self._settings.lease_seconds
                batch_members.adopt(connection, opened.claim, self._worker, lease)
        return usage_id

    def _run(self, opened: OpenCall, prepared: Prepared) -> None:
        claim = opened.claim
        with structlog.contextvars.bound_contextvars(job=str(claim.id), task=claim.task):
            try:
                ended = self._attempts.resume(opened, prepared)
                if ended.state in TERMINAL_STATES:
                    self._ended(claim.id)
            except Exception:
                log.exception("follow-up failed: the job will be rescued")
            finally:
                self._free.release()
