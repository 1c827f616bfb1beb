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

from worker.settings import Settings
from worker.storage import dispatch
from worker.storage.dispatch import Candidate, Dispatched, Group, Survey

#: For each model: how many more requests its rate limit admits within seconds; None = no bound.
#: Models that share a limit have the same key.
Capacity = Callable[[Collection[str]], Mapping[str, tuple[str, int | None]]]


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

    def dispatch(self, connection: Connection, batch: int) -> Batch:
        """Mark up to `batch` due jobs as dispatched and return them."""
        settings = self._settings
        dispatch.lock(connection)
        seen = dispatch.survey(
            connection,
            count_tasks=bool(settings.max_running_per_task),
            count_users=settings.max_running_per_user is not None,
        )
        room = min(batch, settings.working_set - sum(seen.waiting.values()))
        allowances = self._allowances(seen)
        wanted = {
            group: min(room, allowances.of_group(group))
            for group in seen.groups
            if not self._paused(group, seen)
        }
        limits = {group: most for group, most in wanted.items() if most > 0}
        held = any(most < batch for most in wanted.values())
        if not limits:
            return Batch([], "soon" if held else "later")
        found = dispatch.candidates(
            connection,
            limits,
            suspects_too=not seen.suspect_in_flight,
            not_of=allowances.users_without(),
            not_these=self._locked,
        )
        chosen = allowances.choose(found, room)
        jobs = dispatch.mark(connection, chosen)
        self._locked = set(chosen) - {job.id for job in jobs}
        # What was found and not chosen may be passed over next time: its user is at the bound now.
        if jobs and (len(jobs) == batch or len(chosen) < len(found)):
            return Batch(jobs, "now")
        return Batch(jobs, "soon" if held or self._locked else "later")

    def _allowances(self, seen: Survey) -> Allowances:
        per_user = self._settings.max_running_per_user
        queued = {(group.task, group.model) for group in seen.groups}
        capacity = self._capacity({self._model(*kind) for kind in queued | seen.waiting.keys()})
        left: dict[tuple[str, str], int] = {}
        for key, most in capacity.values():
            if most is not None:
                left["class", key] = most
        for (task, model), count in seen.waiting.items():
            key, most = capacity[self._model(task, model)]
            if most is not None:
                left["class", key] -= count
        for task, most in self._settings.max_running_per_task.items():
            left["task", task] = most - seen.live_tasks.get(task, 0)
        if per_user is not None:
            for user, count in seen.live_users.items():
                left["user", user] = per_user - count
        classes = {model: key for model, (key, _) in capacity.items()}
        return Allowances(left, per_user, not seen.suspect_in_flight, self._model, classes)

    def _model(self, task: str, model: str) -> str:
        return model or self._models.get(task, "")

    def _paused(self, group: Group, seen: Survey) -> bool:
        model = self._model(group.task, group.model)
        return not seen.paused.isdisjoint({("all", ""), ("task", group.task), ("model", model)})


@dataclass(slots=True)
class Allowances:
    """How many more jobs each model class, task and user may have; what is not in `left` is free.

    Of the jobs that have used up their rescues one is in flight at a time (`suspect`): the one that
    kills its workers takes none of the others along.
    """

    left: dict[tuple[str, str], int]
    per_user: int | None
    suspect: bool
    model: Callable[[str, str], str]
    classes: Mapping[str, str]

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
        for job in sorted(found, key=lambda job: (job.group.priority, job.run_at)):
            keys = self._keys(job.group, job.user_id)
            blocked = job.suspect and not self.suspect
            if blocked or any(taken[key] >= self._left(key) for key in keys):
                continue
            if len(chosen) == room:
                break
            chosen.append(job.id)
            taken.update(keys)
            self.suspect = self.suspect and not job.suspect
        return chosen

    def _keys(self, group: Group, user: str | None) -> list[tuple[str, str]]:
        shared = self.classes.get(self.model(group.task, group.model), "")
        keys = [("class", shared), ("task", group.task)]
        return keys if user is None else [*keys, ("user", user)]

    def _left(self, key: tuple[str, str]) -> int:
        fallback = self.per_user if key[0] == "user" and self.per_user is not None else _PLENTY
        return self.left.get(key, fallback)


_PLENTY = 1_000_000_000
