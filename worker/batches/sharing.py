"""Jobs of the batch lane that are alike: served from the cache, or one request for all of them.

See docs/caching.md for what is guaranteed; the lane has leaders of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import structlog

from worker.batches.paying import Ready
from worker.engine.settling import Ended, OpenCall
from worker.engine.sharing import LOOKS, Sharing
from worker.storage import lane_leaders, leaders, settle
from worker.storage.lane_leaders import Entering, LaneStanding, lane_key
from worker.storage.leaders import Leader
from worker.storage.models import TERMINAL_STATES


@dataclass(slots=True, eq=False)
class _Member:
    ready: Ready
    request: str
    window: float

    @property
    def key(self) -> str:
        return lane_key(self.request)

    def entering(self) -> Entering:
        return Entering(self.ready.opened.claim, self.request, self.window)

    def leading(self) -> Ready:
        return self.ready._replace(opened=replace(self.ready.opened, request_key=self.key))


class LaneSharing:
    """What gathering does about requests that are alike; `ended` is told of jobs that need none."""

    def __init__(self, sharing: Sharing, ended: Callable[[UUID], None]) -> None:
        self._sharing = sharing
        self._ended = ended

    def join(self, ready: list[Ready]) -> list[Ready]:
        """Those whose requests are to be sent; the others have ended, or wait."""
        sent: list[Ready] = []
        pending: list[_Member] = []
        for each in ready:
            wanted = self._sharing.request(each.opened, each.prepared)
            if wanted is None:
                sent.append(each)
            else:
                pending.append(_Member(each, *wanted))
        for _ in range(LOOKS):
            if not pending:
                break
            entering = [each.entering() for each in pending]
            standings = self._sharing.run(partial(lane_leaders.enter, entering=entering))
            pending = [
                each
                for each in pending
                if not self._step(each, standings[each.ready.opened.claim.id], sent)
            ]
        return sent + [each.leading() for each in pending]

    def release(self, opened: OpenCall) -> None:
        """Let those go on who wait for a job that is held: another one may have the money."""
        if opened.request_key is not None:
            self._sharing.release(opened.request_key)

    def _step(self, member: _Member, standing: LaneStanding, sent: list[Ready]) -> bool:
        """Do what follows from how a request stands; False: it does so no more, look again."""
        opened = member.ready.opened
        claim, leader = opened.claim, standing.leader
        with structlog.contextvars.bound_contextvars(job=str(claim.id), task=claim.task):
            if not standing.held:
                self._sharing.run(lambda c: settle.withdraw_call(c, opened.usage_id))
                return True
            if standing.servable or standing.interactive:
                served = self._served(member, standing)
                return served is not None and self._is_over(claim.id, served)
            if leader is None:
                return False
            if leader.alive and leader.token != claim.token:
                parked = self._sharing.park(opened, member.key, leader)
                return parked is not None and self._is_over(claim.id, parked)
        if not leader.alive and not self._take_over(member, leader):
            return False
        sent.append(member.leading())
        return True

    def _served(self, member: _Member, standing: LaneStanding) -> Ended | None:
        """By a result that is there, or by waiting for one of the interactive lane."""
        opened, sharing = member.ready.opened, self._sharing
        if (servable := standing.servable) is not None:
            if sharing.accepts(opened, servable, member.ready.prepared):
                return sharing.serve(opened, member.key, servable)
            member.window = 0.0
        if standing.interactive is None:
            return None
        sharing.run(lambda c: leaders.let_go(c, opened.claim, member.key))
        return sharing.park(opened, member.request, standing.interactive)

    def _take_over(self, member: _Member, seen: Leader) -> bool:
        claim = member.ready.opened.claim
        return self._sharing.run(lambda c: leaders.take_over(c, claim, member.key, seen))

    def _is_over(self, job_id: UUID, ended: Ended) -> bool:
        if ended.state in TERMINAL_STATES:
            self._ended(job_id)
        return True
