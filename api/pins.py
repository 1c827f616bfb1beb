"""Pins to the exact content of a prompt version, which may be in the database alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from api.context import Context
from api.problems import Problem
from worker.engine.pins import parse_pin
from worker.engine.prompts import get_prompts
from worker.storage.enqueue import NewJob
from worker.storage.releases import find_versions

#: A prompt and what its version is pinned to.
Pin = tuple[str, str | None]


def pin_of(here: Context, job: NewJob) -> Pin:
    """What a job is pinned to."""
    return here.registry[job.task].prompt, job.prompt_version


async def unknown_pins(here: Context, jobs: Sequence[NewJob]) -> dict[Pin, Problem]:
    """The pins of these jobs that no worker could follow, each with the problem to answer.

    Raises:
        StorageUnavailable: Postgres cannot be reached.
    """
    exact = {pin_of(here, job) for job in jobs if "@" in (job.prompt_version or "")}
    strange = [pin for pin in exact if not _in_folder(pin)]
    if not strange:
        return {}
    unknown = await here.database.read(_not_stored, strange)
    return {pin: _problem(*pin) for pin in unknown}


def _in_folder(pin: Pin) -> bool:
    name, (version, sha256) = pin[0], parse_pin(pin[1] or "")
    prompts = get_prompts()
    return prompts.has(name, version) and prompts.get(name, version).sha256.startswith(sha256)


def _not_stored(connection: Connection, pins: Collection[Pin]) -> list[Pin]:
    return [
        (name, pin)
        for name, pin in pins
        if not find_versions(connection, name, *parse_pin(pin or ""))
    ]


def _problem(name: str, pin: str | None) -> Problem:
    problem = f"prompt {name} has no version {pin!r}"
    errors = [{"path": "prompt_version", "problem": problem}]
    return Problem(422, "invalid-input", problem, errors=errors)
