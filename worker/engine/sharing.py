"""Results that are served again, and requests that jobs share: before and after an attempt's calls.

See docs/caching.md for what is guaranteed, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker.engine.holdings import Holdings
from worker.engine.judge import still_accepted
from worker.engine.patience import persistently
from worker.engine.prepare import Prepared
from worker.engine.registry import AnyTask
from worker.engine.rendering import OutputSchema
from worker.engine.requestkey import request_key
from worker.engine.settling import NOT_OURS, Ended, OpenCall
from worker.errors import Failure, StorageUnavailable
from worker.settings import Settings
from worker.storage import cache, leaders
from worker.storage.claim import Claim
from worker.storage.engine import autocommit
from worker.storage.leaders import Servable, Standing

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What a request looks like may change as often while one looks; then it is made without more ado.
LOOKS = 20

_SHARED = Failure("coalesced", "an identical request is being made: its result will be taken")


def window_of(task: AnyTask, settings: Settings) -> float:
    """For how many seconds a task's results are served again; 0: neither cached nor shared."""
    if not settings.cache_seconds or task.cache_seconds is None:
        return settings.cache_seconds
    return task.cache_seconds


class Sharing:
    """What one worker process does about requests that are alike.

    `attend` has the followers of a request looked after; `release` lets them go their own way.
    """

    def __init__(
        self,
        settings: Settings,
        schemas: Mapping[str, OutputSchema],
        holdings: Holdings,
        attend: Callable[[str], None],
        release: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._schemas = schemas
        self._holdings = holdings
        self._attend = attend
        self._release = release

    def join(self, opened: OpenCall, prepared: Prepared) -> OpenCall | Ended:
        """What is to be called for, or how the attempt ended without a call.

        It ends at once with a result that may be served again, or by waiting for the job that makes
        the same request at this moment.
        """
        claim = opened.claim
        wanted = self.request(opened, prepared)
        if wanted is None:
            return opened
        key, window = wanted
        for _ in range(LOOKS):
            standing = self.run(partial(leaders.enter, claim=claim, key=key, window=window))
            for other in standing.elsewhere:
                self._release(other)
            servable = standing.servable
            if servable is not None and not self.accepts(opened, servable, prepared):
                window = 0.0
                servable = None
            step = self._step(opened, key, standing, servable)
            if step is not None:
                return step
        return _leading(opened, key)

    def request(self, opened: OpenCall, prepared: Prepared) -> tuple[str, float] | None:
        """The key of the job's request, and for how many seconds its results are served again.

        None: it is neither served nor shared.
        """
        task, claim = opened.choice.task, opened.claim
        window = window_of(task, self._settings) if claim.cache else 0.0
        if not window:
            return None
        key = request_key(
            prepared.request,
            task=task.name,
            given=prepared.input.model_dump_json(),
            prompt_sha256=opened.choice.prompt.sha256,
            schema_sha256=self._schemas[task.name].sha256,
            service=claim.service,
            user_id=claim.user_id if task.cache_per_user else None,
        )
        return key, window

    def leave(self, opened: OpenCall, ended: Ended) -> None:
        """Look after those who waited for this attempt, which has ended."""
        if opened.request_key is not None:
            self.left(opened.claim, opened.request_key, ended)

    def left(self, claim: Claim, key: str, ended: Ended) -> None:
        """The same for a claim that led the request `key`."""
        if ended.state == "succeeded":
            if ended.followed:
                self._attend(key)
            return
        # Whatever happens here: who looks after waiting jobs finds them within seconds.
        with suppress(SQLAlchemyError, StorageUnavailable):
            with autocommit() as connection:
                alone = leaders.let_go(connection, claim, key)
            if not alone:
                self._attend(key)

    def release(self, key: str) -> None:
        """Let those go their own way who wait for a request that will not be made soon."""
        self._release(key)

    def accepts(self, opened: OpenCall, servable: Servable, prepared: Prepared) -> bool:
        """Whether the task's checks, as they are now, accept a result."""
        task = opened.choice.task
        if still_accepted(servable.output, task.output, task.checks, prepared.input):
            return True
        log.info("a cached result is accepted no longer", source=str(servable.job_id))
        return False

    def _step(
        self, opened: OpenCall, key: str, standing: Standing, servable: Servable | None
    ) -> OpenCall | Ended | None:
        """What follows from how the request stands; None: it does not stand like that any more."""
        leader = standing.leader
        if not standing.held:
            return NOT_OURS
        if servable is not None:
            return self.serve(opened, key, servable)
        if leader is None:
            return None
        if leader.alive:
            ours = leader.token == opened.claim.token
            return _leading(opened, key) if ours else self.park(opened, key, leader)
        taken = self.run(lambda c: leaders.take_over(c, opened.claim, key, leader))
        return _leading(opened, key) if taken else None

    def serve(self, opened: OpenCall, key: str, servable: Servable) -> Ended | None:
        """End a job that leads `key`, if anybody does, with a result; None: look again."""
        choice = opened.choice
        followed = self.run(
            lambda connection: cache.serve(
                connection,
                opened.claim,
                opened.usage_id,
                key,
                servable,
                prompt=choice.prompt.name,
                prompt_version=choice.prompt.version,
                prompt_sha256=choice.prompt.sha256,
                variant=choice.variant,
            )
        )
        if followed is None:
            return None
        log.info("job succeeded from the cache", source=str(servable.job_id))
        if followed:
            self._attend(key)
        return Ended("succeeded")

    def park(self, opened: OpenCall, key: str, leader: leaders.Leader) -> Ended | None:
        """Have a job wait for who leads `key`; None: look again."""
        state = self.run(lambda c: leaders.park(c, opened.claim, opened.usage_id, key, leader))
        match state:
            case "queued":
                log.info("job waits for an identical request", leader=str(leader.job_id))
                return Ended("snoozed", _SHARED)
            case "cancelled":
                log.info("job cancelled")
                return Ended("cancelled", _SHARED)
        return None

    def run(self, statement: Callable[[Connection], T]) -> T:
        """Run a statement through outages: done twice, it is to find what it did the first time."""

        def run() -> T:
            with autocommit() as connection:
                return statement(connection)

        return persistently(run, self._holdings.ending)


def _leading(opened: OpenCall, key: str) -> OpenCall:
    return OpenCall(
        opened.claim, opened.choice, opened.usage_id, opened.spent, key, opened.opened_at
    )
