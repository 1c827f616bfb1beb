"""Watching releases: which, against what, and what follows from an alarm.

A part of the alerts' loop. A release is watched from the loop's next look on, until there is a
newer one of its prompt, until 10,000 first replies of its new versions were counted, or for a
week. Its *new versions* are those whose share grew; the *old* one is that which lost the most.
Rollbacks are not watched.

Everything is in the transaction that marks calls as looked at, so each call counts once, whichever
worker dies. A rollback takes the lock of all releases and then checks that the watched one is still
in force: whoever was faster has decided.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import structlog
from sqlalchemy import Connection

from worker.engine import releasing, replacement, watchreport
from worker.engine.baseline import LARGEST, TELLING, Baseline, Reply
from worker.engine.finding import Finding
from worker.engine.prompts import PromptLibrary
from worker.engine.watchdog import Alarm, Limits, Watch
from worker.errors import ClaudeJobsError
from worker.settings import Settings
from worker.storage import releases, watches
from worker.storage.inspection import EndedCall
from worker.storage.releases import Release
from worker.storage.watches import RecentReplies, StoredWatch

log = structlog.get_logger(__name__)

_LONGEST = 7 * 86400.0
_MOST_CALLS = 10_000
#: Calls until which the next look should be soon: what is very bad shows in the first hundred.
_EAGER_CALLS = 1000
#: `usage.cost_usd` has eight places.
_COST_UNITS = 10**8

Version = tuple[str, str, str]


class ReleaseWatcher:
    """Compares releases with what they replaced, call by call."""

    def __init__(self, settings: Settings, prompts: PromptLibrary) -> None:
        self._mode = settings.watchdog
        self._prompts = prompts
        self._limits = Limits(
            validity=settings.watch_invalid_points / 100,
            refusals=settings.watch_refused_points / 100,
            length=settings.watch_length_factor,
            cost=settings.watch_cost_factor,
            false_alarms=settings.watch_false_alarms,
        )
        #: Whether the last look has counted calls of a release that is new.
        self.is_eager = False

    def look(self, connection: Connection, calls: Sequence[EndedCall]) -> list[Finding]:
        """Take in calls that ended; what is to be told, after what is to be done was done."""
        if self._mode != "off":
            for prompt in watches.unwatched_prompts(connection, within=_LONGEST):
                self._begin(connection, prompt)
        firsts = [call for call in _told(connection, calls) if call.outcome in TELLING]
        findings: list[Finding] = []
        self.is_eager = False
        if self._mode != "off":
            for stored in watches.watching(connection):
                findings += self._continue(connection, stored, firsts)
        _remember(connection, firsts)
        return findings

    def _begin(self, connection: Connection, prompt: str) -> None:
        """Take the measure of what the newest release replaces, before it is forgotten."""
        release, *earlier = releases.history(connection, prompt, limit=2)
        if release.kind != "release":  # since a moment ago
            return
        before = earlier[0] if earlier else None
        recent = watches.recent_replies(connection, prompt)
        versions, old = replacement.changed(release, before, recent)
        watches.begin_watch(
            connection,
            release.id,
            prompt,
            versions=versions,
            baseline=asdict(replacement.baseline_of(old, recent)),
            limits=asdict(replace(self._limits, **replacement.agreed(release))),
        )
        log.info(
            "watching a release",
            prompt=prompt,
            release=release.id,
            versions=", ".join(versions) or "none that is new",
            against=old[0] if old else "nothing",
        )

    def _continue(
        self, connection: Connection, stored: StoredWatch, calls: Sequence[EndedCall]
    ) -> list[Finding]:
        if not stored.is_newest:
            watches.end_watch(connection, stored.release_id, "superseded")
            return []
        variant = f"release:{stored.release_id}"
        assigned = [call for call in calls if call.variant == variant]
        if not assigned and stored.seconds < _LONGEST:
            return []
        watch = Watch(list(stored.versions), Baseline(**stored.baseline), Limits(**stored.limits))
        watch.resume(stored.progress)
        for call in assigned:
            watch.observe(call.prompt_version, _reply(call))
        alarms = watch.alarms()
        watches.save_progress(connection, stored.release_id, watch.progress(), watch.calls)
        self.is_eager |= watch.calls < _EAGER_CALLS
        if alarms:
            return list(self._alarmed(connection, stored, watch, alarms))
        if watch.calls >= _MOST_CALLS or stored.seconds >= _LONGEST:
            watches.end_watch(connection, stored.release_id, "passed")
        return []

    def _alarmed(
        self, connection: Connection, stored: StoredWatch, watch: Watch, alarms: Sequence[Alarm]
    ) -> Iterator[Finding]:
        """Tell people, by version; roll back first where that is wanted and called for."""
        report = watchreport.Report(stored.release_id, stored.prompt, watch.baseline, watch.limits)
        own = [alarm for alarm in alarms if not alarm.shared]
        if not own:
            watches.end_watch(connection, stored.release_id, "shared")
            yield report.shared(alarms)
            return
        if self._mode == "rollback" and watch.baseline.is_enough:
            try:
                made = self._roll_back(connection, stored, watch, report, own)
            except ClaudeJobsError as error:
                yield report.worse(own, f"it could not be rolled back: {error}")
                return
            if made is None:
                watches.end_watch(connection, stored.release_id, "superseded")
                return
            watches.end_watch(connection, stored.release_id, "rolled_back")
            yield report.rolled_back(own, made)
            return
        yield report.worse(own)

    def _roll_back(
        self,
        connection: Connection,
        stored: StoredWatch,
        watch: Watch,
        report: watchreport.Report,
        alarms: Sequence[Alarm],
    ) -> Release | None:
        """Restore what was; None if somebody has released something else meanwhile."""
        is_first = len(releases.history(connection, stored.prompt, limit=2)) == 1
        return releasing.rollback(
            connection,
            self._prompts,
            stored.prompt,
            # Before its first release, the highest version served.
            watch.baseline.version if is_first else None,
            by="watchdog",
            reason=report.reason(alarms),
            kind="automatic_rollback",
            only_from=stored.release_id,
            evidence=report.evidence(alarms),
        )


def _told(connection: Connection, calls: Sequence[EndedCall]) -> Iterator[EndedCall]:
    """The first calls of jobs that did not choose their version.

    An API error is the version's if the job has failed for it: a model that does not exist, or a
    `max_tokens` that is too high, is in every request.
    """
    firsts = [
        call
        for call in calls
        if call.attempt == 1 and call.call == 1 and call.variant not in (None, "pinned")
    ]
    in_error = [call.job_id for call in firsts if call.outcome == "api_error" and call.job_id]
    rejected = watches.rejected_jobs(connection, in_error) if in_error else set()
    for call in firsts:
        yield replace(call, outcome="rejected") if call.job_id in rejected else call


def _reply(call: EndedCall) -> Reply:
    # The first calls of any version write its prefix to Claude's cache, which costs more than all
    # that follows: they say nothing about what the version will cost.
    return Reply(
        outcome=call.outcome,
        tokens=call.output_tokens,
        cost=None
        if call.cost_usd is None or call.writes_cache
        else int(call.cost_usd * _COST_UNITS),
        user=None if call.user_id is None else zlib.crc32(call.user_id.encode()),
    )


def _remember(connection: Connection, calls: Sequence[EndedCall]) -> None:
    """Keep the newest replies of each version, for a release that replaces it one day."""
    by_version: dict[Version, list[Reply]] = defaultdict(list)
    for call in calls:
        key = (call.prompt, call.prompt_version, call.prompt_sha256)
        by_version[key].append(_reply(call))
    kept = [
        RecentReplies(
            *key,
            outcomes=[reply.outcome for reply in replies],
            tokens=[reply.tokens for reply in replies],
            costs=[reply.cost for reply in replies],
            users=[reply.user for reply in replies],
        )
        for key, replies in sorted(by_version.items())
    ]
    watches.append_replies(connection, kept, most=LARGEST)
