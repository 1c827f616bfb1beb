"""What becomes of the jobs that wait for a request; a decision from facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.storage.followers import Situation

#: A leader that is to come back within so many seconds is waited for; else another one goes ahead.
PATIENCE = 5.0
#: One that is due and yet does not ask for so long may be held by a bound of its user's, say.
LONGEST_IDLE = 30.0
#: One that waits to be gathered into a batch again is given more time, as everything of its lane.
LONGEST_IN_LANE = 3600.0

_ANY_ATTEMPTS = 2**31 - 1

#: Failures that lie in the request, so that every job like it would end the same, and be paid for.
_OF_THE_REQUEST = {
    "refused",
    "truncated",
    "check_error",
    "budget_spent",
    "unstorable_output",
    "worker_lost",
    "unknown_task",
    "unknown_prompt_version",
    "input_error",
    "invalid_input",
    "template_error",
    # Results of batches have Claude's error types, and no status.
    "invalid_request_error",
    "not_found_error",
    "request_too_large",
}
_STATUSES_OF_THE_REQUEST = {400, 404, 413, 422}

#: Failures that another job may be spared: of a deadline that passed, of one worker's API key.
_OF_THE_JOB = {
    "no_capacity",
    "rate_limited",
    "superseded",
    "unfit_release",
    "authentication_error",
    "permission_error",
}
_STATUSES_OF_THE_WORKER = {401, 403}


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody makes the request, or will in a moment."""


@dataclass(frozen=True, slots=True)
class Complete:
    """There is a result: all get it."""


@dataclass(frozen=True, slots=True)
class FailAll:
    """The request has failed for all that may not have more than `most_attempts`."""

    most_attempts: int


@dataclass(frozen=True, slots=True)
class Promote:
    """The most urgent one makes the request now, with what it has cost in attempts and rescues."""

    attempt: int
    rescues: int


Fate = Wait | Complete | FailAll | Promote


def fate(seen: Situation, *, servable: bool, spread: bool = True) -> Fate:
    """What becomes of those who wait.

    `servable`: the result in `seen` may be given to them. `spread`: a failure may be.
    """
    if servable and not seen.leading:
        return Complete()
    if seen.leading or _is_on_its_way(seen):
        return Wait()
    match seen.state:
        case "queued" | "dispatched":
            return Promote(seen.attempt, seen.rescues)
        case "failed":
            return _after_failure(seen, spread=spread)
        case _:  # cancelled, succeeded with something else, or gone
            return Promote(0, seen.rescues)


def _is_on_its_way(seen: Situation) -> bool:
    if seen.in_lane and seen.state == "queued" and not seen.waits:
        return seen.idle < LONGEST_IN_LANE
    soon = seen.state == "queued" and not seen.waits and seen.due_in < PATIENCE
    return (soon or seen.state in ("dispatched", "running")) and seen.idle < LONGEST_IDLE


def _after_failure(seen: Situation, *, spread: bool) -> Fate:
    error = seen.error or {}
    if _lies_in_the_job(error):
        return Promote(0, seen.rescues)
    if spread and _lies_in_the_request(error):
        return FailAll(_ANY_ATTEMPTS)
    if spread and seen.attempt >= seen.max_attempts:
        return FailAll(seen.attempt)
    return Promote(seen.attempt, seen.rescues)


def _lies_in_the_request(error: Mapping[str, Any]) -> bool:
    return error.get("type") in _OF_THE_REQUEST or error.get("status") in _STATUSES_OF_THE_REQUEST


def _lies_in_the_job(error: Mapping[str, Any]) -> bool:
    return error.get("type") in _OF_THE_JOB or error.get("status") in _STATUSES_OF_THE_WORKER
