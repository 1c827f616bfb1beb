"""Which due jobs are dispatched next: as many as can be run soon, the most urgent first.

A job in the broker is beyond priority, pause and fairness. So no more are sent than the workers
and the rate limits will take within a few seconds; the rest waits in Postgres, where the order can
still change, and a limit that is used up holds nobody's other jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection

from worker.engine.holds import Holds
from worker.settings import Settings
from worker.storage import dispatch
from worker.storage.dispatch import Candidate, Dispatched, Group, Survey

#: For each model: how many more requests its rate limit admits within seconds; None = no bound.
#: Models that share a limit have the same key.
Capacity = Callable[[Collection[str]], Mapping[str, tuple[str, int | None]]]


_REMEMBERED_USERS = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs to publish, most urgent first, and when to look for more.

    `soon`: something waits for room or for a limit, which nobody will report. `later`: nothing is
    due, and what becomes due will be heard of or is found by the poll.
    """

    jobs: list[Dispatched]
    look_again: Literal["now", "soon", "later"]


def unlimited(models: Collection[str]) -> dict[str, tuple[str, int | None]]:
    """The capacity of a fleet that knows no rate limits."""
    return dict.fromkeys(models, ("", None))


class Dispatcher:
    """Chooses and marks the jobs of one relay; `models` is the model that each task runs on."""

    def __init__(
        self, settings: Settings, models: Mapping[str, str], capacity: Capacity = unlimited
    ) -> None:
        self._settings = settings
        self._models = models
        self._capacity = capacity
        #: Jobs that were locked by somebody else at the last look: others come first now.
        self._locked: set[UUID] = set()
        self._last_user = ""
        self._known_models = set(models.values())
        self._rooms: dict[str, tuple[str, int | None]] = {}
        #: When each user was last served, in looks; the longest waiting are forgotten first.
        self._looks = 0
        self._served: dict[str | None, int] = {}

    def dispatch(self, connection: Connection, batch: int) -> Batch:
        """Mark up to `batch` due jobs as dispatched and return them."""
        settings = self._settings
        # Asked before the survey takes the lock: nobody waits for Redis under it.
        self._rooms = dict(self._capacity(self._known_models))
        seen = dispatch.survey(
            connection,
            count_tasks=bool(settings.max_running_per_task),
            count_users=settings.max_running_per_user is not None,
        )
        room = min(batch, settings.working_set - sum(seen.waiting.values()))
        holds = Holds(seen.budgets)
        allowances = self._allowances(seen, holds)
        # Where nothing may go out, one job is looked for: whether any waits for the limit.
        limits = {
            group: max(1, min(room, allowances.of_group(group)))
            for group in seen.groups
            if not self._paused(group, seen)
            and not holds.hold(group.task, self._model(group.task, group.model))
        }
        if not limits:
            return Batch([], "later")
        found = self._find(connection, limits, allowances, seen, holds)
        by_group = Counter(job.group for job in found)
        held = any(by_group[group] >= most for group, most in limits.items() if most < batch)
        chosen = allowances.choose(found, room)
        jobs = dispatch.mark(connection, chosen)
        self._locked = set(chosen) - {job.id for job in jobs}
        self._note(jobs)
        # What was found and not chosen may be passed over next time: its user is at the bound now.
        if jobs and (len(jobs) == batch or len(chosen) < len(found)):
            return Batch(jobs, "now")
        waiting = held or self._locked or allowances.users_without()
        return Batch(jobs, "soon" if waiting else "later")

    def _find(
        self,
        connection: Connection,
        limits: dict[Group, int],
        allowances: Allowances,
        seen: Survey,
        holds: Holds,
    ) -> list[Candidate]:
        suspects_too, per_user = not seen.suspect_in_flight, self._settings.max_running_per_user
        if per_user is None and not holds.users:
            return dispatch.candidates(
                connection, limits, suspects_too=suspects_too, not_these=self._locked
            )
        found = dispatch.candidates_by_user(
            connection,
            limits,
            suspects_too=suspects_too,
            not_these=self._locked,
            not_of=[*allowances.users_without(), *holds.users],
            each=per_user or max(limits.values()),
            after=self._last_user,
        )
        # The next look begins where this one ended, and with the first user after the last.
        users = {job.user_id for job in found if job.user_id}
        self._last_user = max(users) if len(users) >= dispatch.MOST_USERS else ""
        return found

    def _note(self, jobs: list[Dispatched]) -> None:
        if self._settings.max_running_per_user is None:
            return
        self._looks += 1
        for job in jobs:
            self._served.pop(job.user_id, None)
            self._served[job.user_id] = self._looks
        while len(self._served) > _REMEMBERED_USERS:
            del self._served[next(iter(self._served))]

    def _allowances(self, seen: Survey, holds: Holds) -> Allowances:
        per_user = self._settings.max_running_per_user
        queued = {(group.task, group.model) for group in seen.groups}
        models = {self._model(*kind) for kind in queued | seen.waiting.keys()}
        if unknown := models - self._rooms.keys():
            self._rooms |= self._capacity(unknown)
        self._known_models = models
        capacity = {model: self._rooms[model] for model in models}
        left: dict[tuple[str, str], int] = dict(holds.fits)
        for key, most in capacity.values():
            if most is not None:
                left["class", key] = most
        for (task, model), count in seen.waiting.items():
            runs_on = self._model(task, model)
            key, most = capacity[runs_on]
            if most is not None:
                left["class", key] -= count
            for budget in holds.keys(task, runs_on):
                left[budget] -= count
        for task, most in self._settings.max_running_per_task.items():
            left["task", task] = most - seen.live_tasks.get(task, 0)
        if per_user is not None:
            for user, count in seen.live_users.items():
                left["user", user] = per_user - count
        classes = {model: key for model, (key, _) in capacity.items()}
        suspect = not seen.suspect_in_flight
        return Allowances(left, per_user, suspect, self._model, classes, self._served, holds)

    def _model(self, task: str, model: str) -> str:
        return model or self._models.get(task, "")

    def _paused(self, group: Group, seen: Survey) -> bool:
        model = self._model(group.task, group.model)
        return not seen.paused.isdisjoint({("all", ""), ("task", group.task), ("model", model)})


@dataclass(slots=True)
class Allowances:
    """How many more jobs each model class, task, user and budget may have; what is not in `left`
    is free.

    Of the jobs that have used up their rescues one is in flight at a time (`suspect`): the one that
    kills its workers takes none of the others along.
    """

    left: dict[tuple[str, str], int]
    per_user: int | None
    suspect: bool
    model: Callable[[str, str], str]
    classes: Mapping[str, str]
    served: Mapping[str | None, int]
    holds: Holds

    def of_group(self, group: Group) -> int:
        """How many jobs of a group may go out."""
        return min(self._left(key) for key in self._keys(group, None))

    def users_without(self) -> list[str]:
        """Users who may have no more jobs."""
        return [name for (kind, name), left in self.left.items() if kind == "user" and left <= 0]

    def choose(self, found: list[Candidate], room: int) -> list[UUID]:
        """The jobs that go out: by priority, then by age, as far as every allowance reaches."""
        chosen: list[UUID] = []
        taken: Counter[tuple[str, str]] = Counter()
        for job in self._in_order(found):
            keys = self._keys(job.group, job.user_id)
            blocked = job.suspect and not self.suspect
            if blocked or any(taken[key] >= self._left(key) for key in keys):
                continue
            if len(chosen) >= room:
                break
            chosen.append(job.id)
            taken.update(keys)
            self.suspect = self.suspect and not job.suspect
        return chosen

    def _in_order(self, found: list[Candidate]) -> list[Candidate]:
        """By priority and age; where users have a bound, who has fewer jobs out there comes first,
        then who was served longer ago.

        So a user with many jobs shares a limit with the others, even if its bound is never met.
        """
        by_age = sorted(found, key=lambda job: (job.group.priority, job.run_at))
        if self.per_user is None:
            return by_age
        turns: Counter[str | None] = Counter()
        turn = {}
        for job in by_age:
            live = self.per_user - self.left.get(("user", job.user_id or ""), self.per_user)
            turn[job.id] = live + turns[job.user_id]
            turns[job.user_id] += 1
        return sorted(
            by_age,
            key=lambda job: (job.group.priority, turn[job.id], self.served.get(job.user_id, 0)),
        )

    def _keys(self, group: Group, user: str | None) -> list[tuple[str, str]]:
        model = self.model(group.task, group.model)
        keys = [("class", self.classes.get(model, "")), ("task", group.task)]
        keys += self.holds.keys(group.task, model)
        return keys if user is None else [*keys, ("user", user)]

    def _left(self, key: tuple[str, str]) -> int:
        fallback = self.per_user if key[0] == "user" and self.per_user is not None else _PLENTY
        return self.left.get(key, fallback)


_PLENTY = 1_000_000_000
