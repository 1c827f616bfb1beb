"""Changing what serves: a release, and the way back.

Both add a row to `prompt_releases` and nothing else. Every claim that follows its commit sees it;
the jobs that are queued by then are given the new version like those that come after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.engine.allocation import POINTS, Allocation
from worker.engine.catalog import register
from worker.engine.prompts import Prompt, PromptLibrary, version_key
from worker.errors import InvalidInput
from worker.storage import releases
from worker.storage.releases import Kind, NewRelease, Release


@dataclass(frozen=True, slots=True)
class Served:
    """What serves of a prompt: each version's content hash, and who gets which."""

    sha256: Mapping[str, str]
    allocation: Allocation

    def has(self, prompt: Prompt) -> bool:
        """Whether this very content serves."""
        return self.sha256.get(prompt.version) == prompt.sha256


def what_serves(prompts: PromptLibrary, name: str, current: Release | None) -> Served:
    """What `current` puts in force; without a release, the highest version in the folder serves."""
    if current is None:
        highest = prompts.get(name)
        return Served({highest.version: highest.sha256}, Allocation.all_to(highest.version))
    return Served(current.sha256, Allocation.from_rows(current.allocation))


def to_be_judged(
    connection: Connection, prompts: PromptLibrary, name: str, shares: Mapping[str, int]
) -> list[Prompt]:
    """The versions among `shares` that need evidence; nobody else releases before the commit.

    They are those that do not serve yet, and those that only serve because somebody insisted: a
    trial on 1 % is no reason to go on. Where nothing was released, the folder here may have a
    version that the workers' folders lack: what they last chose is what serves, as far as there
    were any jobs.

    Raises:
        ConfigurationError, UnknownPromptVersion: there is no such prompt or version.
    """
    named = [prompts.get(name, version) for version in shares]
    releases.lock(connection)
    history = releases.history(connection, name)
    if not history and (chosen := releases.last_served_unreleased(connection, name)):
        return [prompt for prompt in named if prompt.sha256 != chosen]
    served = what_serves(prompts, name, history[0] if history else None)
    before = served.allocation.shares()
    insisted = _insisted_on(history)
    return [
        prompt
        for prompt in named
        if not served.has(prompt)
        or (prompt.sha256 in insisted and shares[prompt.version] > before[prompt.version])
    ]


def _insisted_on(history: Iterable[Release]) -> set[str]:
    """The contents that were put in force although evidence was missing."""
    forced = [each for each in history if each.forced]
    return {each.sha256[v] for each in forced for v in each.sha256 if v in each.evidence}


def release(
    connection: Connection,
    prompts: PromptLibrary,
    name: str,
    shares: Mapping[str, int],
    *,
    by: str,
    reason: str = "",
    forced: bool = False,
    evidence: Mapping[str, Any] | None = None,
) -> Release:
    """Put versions of a prompt in force, each for its share of 10,000 points.

    Whoever can keep their version keeps it. `evidence` says why the versions may serve.

    Raises:
        ConfigurationError, UnknownPromptVersion: there is no such prompt or version.
        InvalidInput: it is in force already.
    """
    releases.lock(connection)
    current = _current(connection, name)
    served = what_serves(prompts, name, current)
    chosen = [prompts.get(name, version) for version in shares]
    if current and served.allocation.shares() == dict(shares) and all(map(served.has, chosen)):
        raise InvalidInput(f"nothing to do: release {current.id} of {name} says just that")
    register(connection, chosen)
    return releases.insert(
        connection,
        _row(
            name,
            "release",
            Served(
                {prompt.version: prompt.sha256 for prompt in chosen},
                served.allocation.changed_to(shares),
            ),
            by=by,
            reason=reason,
            forced=forced,
            evidence=dict(evidence or {}),
        ),
    )


def rollback(
    connection: Connection,
    prompts: PromptLibrary,
    name: str,
    version: str | None = None,
    *,
    by: str,
    reason: str = "",
    kind: Kind = "rollback",
    only_from: int | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Release | None:
    """Put in force again what was before the current release, or one `version` that was.

    After another rollback it goes one release further back, never on again. With `only_from`,
    nothing is done, and None returned, unless that release is still the one in force.

    Raises:
        ConfigurationError, UnknownPromptVersion: there is no such prompt or version.
        InvalidInput: there is nothing to go back to, or `version` is not a step back.
    """
    prompts.versions(name)
    releases.lock(connection)
    history = releases.history(connection, name)
    current = history[0] if history else None
    if only_from is not None and (current is None or current.id != only_from):
        return None
    if version is not None:
        target, restores = _earlier_version(prompts, name, history, version), None
        if kind == "rollback":  # the watchdog knows what served before the first release
            _require_way_back(prompts, name, history, version)
    else:
        before = _before(name, history)
        target = Served(before.sha256, Allocation.from_rows(before.allocation))
        restores = before.restores or before.id
    row = _row(
        name, kind, target, by=by, reason=reason, restores=restores, evidence=dict(evidence or {})
    )
    return releases.insert(connection, row)


def _current(connection: Connection, name: str) -> Release | None:
    newest = releases.history(connection, name, limit=1)
    return newest[0] if newest else None


def _before(name: str, history: list[Release]) -> Release:
    in_force = _place(history, history[0]) if history else 0
    earlier = [each for each in history if each.id < in_force]
    if not earlier:
        raise InvalidInput(
            f"{name} has no earlier release: name the version to go back to, as in "
            f"`claude-jobs prompts rollback {name} 1.0`"
        )
    return earlier[0]


def _place(history: list[Release], release: Release) -> int:
    """The number of the release that served when what `release` put in force was new; 0: none did.

    Otherwise a rollback that follows another would go on to what that has taken back.
    """
    restored = next((each for each in history if each.id == release.restores), release)
    if restored.kind == "release":
        return restored.id
    (version,) = restored.sha256  # it was named by somebody
    earlier = (each for each in history if each.id < restored.id and each.kind == "release")
    return next((each.id for each in earlier if version in each.sha256), 0)


def _earlier_version(
    prompts: PromptLibrary, name: str, history: list[Release], version: str
) -> Served:
    """All traffic to `version`, with the content that it last served with."""
    contents = (each.sha256[version] for each in history if version in each.sha256)
    sha256 = next(contents, None) or prompts.get(name, version).sha256
    return Served({version: sha256}, Allocation.all_to(version))


def _require_way_back(
    prompts: PromptLibrary, name: str, history: list[Release], version: str
) -> None:
    """Check that `version` had all traffic before, or is older than what serves.

    A version that was given to some users only is for a release, which asks what speaks for it.
    """
    if any(set(each.sha256) == {version} for each in history):
        return
    served = what_serves(prompts, name, history[0] if history else None)
    if version_key(version) >= max(map(version_key, served.sha256)):
        some = any(version in each.sha256 for each in history)
        raise InvalidInput(
            f"{name}/{version} never served{' everybody' if some else ''}: a rollback goes back. "
            f"To go on, run `claude-jobs prompts release {name} {version}`"
        )


def _row(name: str, kind: Kind, served: Served, *, by: str, **more: Any) -> NewRelease:
    shares = served.allocation.shares()
    return NewRelease(
        prompt=name,
        kind=kind,
        weights={version: points * 100 / POINTS for version, points in shares.items()},
        sha256=dict(served.sha256),
        allocation=served.allocation.segments,
        released_by=by,
        **more,
    )
