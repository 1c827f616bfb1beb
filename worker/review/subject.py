"""What is reviewed: a version, what it is compared with, and the task that runs both."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from worker.engine.catalog import Catalog
from worker.engine.pins import parse_pin
from worker.engine.prompts import Prompt
from worker.engine.registry import AnyTask, Registry
from worker.engine.releasing import what_serves
from worker.errors import ConfigurationError
from worker.storage import releases


@dataclass(frozen=True, slots=True)
class Subject:
    """A task with a candidate of its prompt, and the version to compare with, if there is any."""

    task: AnyTask
    candidate: Prompt
    baseline: Prompt | None


def choose_subject(
    connection: Connection,
    registry: Registry,
    prompt: str,
    version: str,
    *,
    baseline: str | None = None,
    task: str | None = None,
) -> Subject:
    """The task that uses a prompt, and the two versions, each as a pin (`1.2`, `1.2@<hash>`).

    Without `baseline`, it is what serves most users now; if that is the candidate, the highest
    version that says something else; None if no other does.

    Raises:
        ConfigurationError: there is no such prompt; no task, or several tasks use it; or both
            versions have the same content.
        InvalidInput, UnknownPromptVersion, UnknownTask: there is none of that name.
    """
    registry.prompts.versions(prompt)
    runner = _runner(registry, prompt, task)
    catalog = Catalog(registry.prompts)
    candidate = catalog.find(connection, runner, *parse_pin(version))
    if baseline is None:
        return Subject(runner, candidate, _default(connection, registry, runner, candidate))
    compared = catalog.find(connection, runner, *parse_pin(baseline))
    if compared.sha256 == candidate.sha256:
        raise ConfigurationError(
            f"prompt {prompt}: versions {version} and {baseline} say the same to Claude; there is "
            "nothing to compare"
        )
    return Subject(runner, candidate, compared)


def _runner(registry: Registry, prompt: str, task: str | None) -> AnyTask:
    users = sorted(each.name for each in registry.values() if each.prompt == prompt)
    if task is None and len(users) != 1:
        which = f"several use it: say --task {' or '.join(users)}" if users else "none uses it"
        raise ConfigurationError(f"which task is to run prompt {prompt}? {which}")
    chosen = registry[task or users[0]]
    if chosen.prompt != prompt:
        raise ConfigurationError(f"task {chosen.name} uses prompt {chosen.prompt}, not {prompt}")
    return chosen


def _default(
    connection: Connection, registry: Registry, runner: AnyTask, candidate: Prompt
) -> Prompt | None:
    library, name = registry.prompts, candidate.name
    current = {each.prompt: each for each in releases.serving(connection)}.get(name)
    served = what_serves(library, name, current)
    shares = served.allocation.shares()
    main = max(shares, key=lambda each: shares[each])
    present = Catalog(library).find(connection, runner, main, served.sha256[main])
    others = [library.get(name, version) for version in reversed(library.versions(name))]
    differing = (each for each in (present, *others) if each.sha256 != candidate.sha256)
    return next(differing, None)
