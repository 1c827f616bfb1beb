"""Submitting a Message Batch so that it is neither lost nor there twice.

The API takes no idempotency key. So the right to send a batch is won once, in Postgres, before
anything is sent; and when the answer is lost, the batch is looked for (`reconcile.py`) instead of
being sent again.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from worker.batches.draft import Draft
from worker.claude.batch_wire import RemoteBatch
from worker.claude.batches import BatchClient, NotCreated
from worker.claude.failures import CallFailed
from worker.engine.alerts import announce
from worker.engine.finding import Finding
from worker.engine.holdings import Holdings
from worker.engine.patience import persistently
from worker.engine.policy import Backoff
from worker.engine.settling import Settler
from worker.limits.headers import retry_after
from worker.settings import Settings
from worker.storage import batch_members, batches
from worker.storage.engine import transaction

log = structlog.get_logger(__name__)

#: A request that takes longer is given up, in seconds.
_LONGEST_SUBMISSION = 300.0
#: How soon jobs are gathered again whose batch was not taken.
_BACKOFF = Backoff(base=60.0, cap=900.0)


def submission_seconds(settings: Settings) -> float:
    """How long a request to create a batch may take: after that the API does not have it."""
    return min(_LONGEST_SUBMISSION, settings.batch_confirm_seconds)


class Submitter:
    """Sends batches, each once."""

    def __init__(
        self,
        settings: Settings,
        client: BatchClient,
        settler: Settler,
        holdings: Holdings,
        first_look: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._client = client
        self._settler = settler
        self._holdings = holdings
        self._first_look = first_look
        self._refused = 0

    def submit(self, draft: Draft) -> None:
        """Send a batch; whatever happens, its members are in it or back in their lane."""
        seconds = submission_seconds(self._settings)
        with transaction() as connection:
            won = batches.mark_sent(
                connection,
                draft.id,
                draft.keeper,
                requests=len(draft.requests),
                bytes=draft.size,
                lease=seconds + 10,
            )
        if not won:
            self.withdraw(draft)
            return
        try:
            remote = self._client.create(draft.requests, seconds)
        except NotCreated as refused:
            self._take_back(draft, refused.failed)
        except CallFailed as failed:
            log.warning(
                "batch submitted, the answer was lost: it is looked for",
                batch=str(draft.id),
                summary=failed.failure.summary,
            )
            with transaction() as connection:
                batches.look_later(connection, draft.id, draft.keeper, after=0.0)
        else:
            self._refused = 0
            self._record(draft, remote)

    def withdraw(self, draft: Draft) -> None:
        """Give up a batch that was never sent; its jobs stay in the lane."""
        with transaction() as connection:
            if batches.discard(connection, draft.id, draft.keeper):
                batch_members.release(connection, draft.id)

    def _record(self, draft: Draft, remote: RemoteBatch) -> None:
        def record() -> bool:
            with transaction() as connection:
                return batches.mark_submitted(
                    connection,
                    draft.id,
                    anthropic_id=remote.id,
                    expires_at=remote.expires_at,
                    look_after=self._first_look(),
                )

        if persistently(record, self._holdings.ending):
            log.info(
                "batch submitted",
                batch=str(draft.id),
                model=draft.model,
                requests=len(draft.requests),
                bytes=draft.size,
                anthropic_id=remote.id,
            )
        elif not self._is_known(remote):
            # Frozen for longer than anybody waits: its jobs are elsewhere by now.
            log.error("batch given up before its answer came: cancelling it", id=remote.id)
            self._client.cancel(remote.id)

    def _is_known(self, remote: RemoteBatch) -> bool:
        with transaction() as connection:
            return remote.id in batches.known(connection, [remote.id])

    def _take_back(self, draft: Draft, failed: CallFailed) -> None:
        """Return the members of a batch that does not exist."""
        failure, kind = failed.failure, failed.facts.kind
        terminal = kind == "terminal"
        if kind == "spend_limit":
            self._settler.pause_everything("spend limit reached", failure)
        self._refused += 1
        pause = _BACKOFF.ceiling(self._refused)
        after = 0.0 if terminal else max(pause, retry_after(failed.facts.headers) or 0.0)
        raised = []
        with transaction() as connection:
            if not batches.mark_failed(
                connection, draft.id, draft.keeper, failure.message or failure.summary
            ):
                return
            batch_members.release(
                connection, draft.id, lane="interactive" if terminal else "batch", after=after
            )
            if terminal:
                raised.append(_refusal(draft, failed).put(connection))
        announce(raised)
        log.warning(
            "batch not submitted",
            batch=str(draft.id),
            requests=len(draft.requests),
            error=failure.type,
            summary=failure.summary,
            after=round(after, 1),
        )


def _refusal(draft: Draft, failed: CallFailed) -> Finding:
    message = (
        f"Anthropic refused a batch of {len(draft.requests):,} requests "
        f"({failed.failure.summary}): its jobs are run one by one at full price; see "
        f"`claude-jobs batches show {draft.id}`"
    )
    details = {"batch": str(draft.id), "requests": len(draft.requests)}
    return Finding("batch_failed", draft.model, message, details)
