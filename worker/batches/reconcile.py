"""What became of a batch whose submission nobody heard the end of.

Nothing in the API names our intent while a batch is processed; its results do, by their custom ids.
So of the batches that were created since the request was sent, with as many requests and known to
nobody here, each is a candidate until it has ended and its first result says whose it is. Only when
there is no candidate, and the list has had time to show one, the batch is known not to exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from worker.batches.draft import usage_of
from worker.batches.submit import submission_seconds
from worker.claude.batch_wire import RemoteBatch, parse_line
from worker.claude.batches import BatchClient
from worker.settings import Settings
from worker.storage import batches
from worker.storage.batches import Kept
from worker.storage.engine import transaction

#: How far Claude's clock and Postgres' may be apart. Were it more, a batch could be overlooked.
_SKEW = timedelta(hours=1)
#: Candidates that were somebody else's are remembered, so that their results are looked at once.
_MOST_FOREIGN = 10_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """`found`: it exists; `absent`: it does not; `unknown`: it has to be looked for again."""

    kind: Literal["found", "absent", "unknown"]
    remote: RemoteBatch | None = None


class Reconciler:
    """Looks for batches that may have been created; safe to use from one thread."""

    def __init__(self, settings: Settings, client: BatchClient) -> None:
        self._settings = settings
        self._client = client
        #: Pairs: what is not one batch of ours may still be another one.
        self._foreign: set[tuple[UUID, str]] = set()

    def look_for(self, batch: Kept) -> Verdict:
        """Whether `batch`, whose request was sent, exists.

        Raises:
            CallFailed: the API could not be asked.
        """
        candidates = self._candidates(batch)
        for remote in candidates:
            if remote.has_ended:
                if self._is_of(remote, batch):
                    return Verdict("found", remote)
                self._remember(batch, remote)
        if any((batch.id, remote.id) not in self._foreign for remote in candidates):
            return Verdict("unknown")
        assert batch.sent_ago is not None  # noqa: S101 – what was not sent is not looked for
        patience = submission_seconds(self._settings) + self._settings.batch_confirm_seconds
        return Verdict("absent" if batch.sent_ago > patience else "unknown")

    def _candidates(self, batch: Kept) -> list[RemoteBatch]:
        assert batch.sent_at is not None  # noqa: S101
        latest = batch.sent_at + timedelta(seconds=submission_seconds(self._settings)) + _SKEW
        found = [
            remote
            for remote in self._client.created_since(batch.sent_at - _SKEW)
            if remote.created_at <= latest
            and remote.archived_at is None
            and remote.request_counts.total() == batch.requests
            and (batch.id, remote.id) not in self._foreign
        ]
        with transaction() as connection:
            known = batches.known(connection, [remote.id for remote in found])
        return [remote for remote in found if remote.id not in known]

    def _is_of(self, remote: RemoteBatch, batch: Kept) -> bool:
        with self._client.results(remote.id) as lines:
            for line in lines:
                return usage_of(parse_line(line).custom_id, batch.id) is not None
        return False

    def _remember(self, batch: Kept, remote: RemoteBatch) -> None:
        if len(self._foreign) >= _MOST_FOREIGN:
            self._foreign.clear()
        self._foreign.add((batch.id, remote.id))
