"""Which prompt versions serve, as this process has heard, and who gets which of them.

A claim brings the number of the newest release with it, so a job is never given a version that
had been withdrawn before it was claimed, whatever this process has heard until then. The loop here
keeps everything else up to date: the models that the relay counts by, and jobs that wait in a slot.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy import Connection

from worker.engine.allocation import Allocation, point_of
from worker.engine.catalog import Catalog
from worker.engine.loops import Loop
from worker.engine.registry import Registry
from worker.errors import ConfigurationError, UnknownPromptVersion
from worker.settings import Settings
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.listener import Listener
from worker.storage.releases import Release

log = structlog.get_logger(__name__)

#: The variants of usage and result rows that no release has chosen.
PINNED, HIGHEST = "pinned", "highest"

#: The poll behind NOTIFY (seconds).
_POLL = 1.0


@dataclass(frozen=True, slots=True)
class Pick:
    """The version that a job gets; `sha256` is empty where any content will do.

    `variant` says why: `pinned`, `release:<id>`, or `highest` where nothing was ever released.
    """

    version: str | None
    sha256: str
    variant: str


@dataclass(frozen=True, slots=True)
class _InForce:
    newest: int = 0
    releases: Mapping[str, tuple[Release, Allocation]] = field(default_factory=dict)


class Serving:
    """The releases in force; safe to use from any thread, as all of it is replaced at once."""

    def __init__(self) -> None:
        self._known = _InForce()
        self._lock = threading.Lock()

    @property
    def newest(self) -> int:
        """The number of the newest release that this process has heard of."""
        return self._known.newest

    def keep_up(self, connection: Connection, newest: int) -> None:
        """Read the releases, unless `newest` is known already."""
        if newest <= self._known.newest:
            return
        found = releases.serving(connection)
        heard = _InForce(
            max((release.id for release in found), default=0),
            {each.prompt: (each, Allocation.from_rows(each.allocation)) for each in found},
        )
        with self._lock:  # whoever read before a release may come here after those who read it
            if heard.newest > self._known.newest:
                self._known = heard

    def in_force(self, since: int = 0) -> list[Release]:
        """The releases that count, of those with a number above `since`."""
        return [each for each, _ in self._known.releases.values() if each.id > since]

    def pick(self, prompt: str, user_id: str | None, job_id: UUID) -> Pick:
        """The version for a job that has none of its own; the same user gets the same."""
        found = self._known.releases.get(prompt)
        if found is None:
            return Pick(None, "", HIGHEST)
        release, allocation = found
        version = allocation.version_at(point_of(prompt, user_id or str(job_id)))
        return Pick(version, release.sha256[version], f"release:{release.id}")

    def main_version(self, prompt: str) -> Pick:
        """The version that most get."""
        found = self._known.releases.get(prompt)
        if found is None:
            return Pick(None, "", HIGHEST)
        release, allocation = found
        shares = allocation.shares()
        version = max(shares, key=lambda each: shares[each])
        return Pick(version, release.sha256[version], f"release:{release.id}")


class ServedModels(Mapping[str, str]):
    """The model that most jobs of each task run on now, unless they name one themselves."""

    def __init__(self, registry: Registry, serving: Serving, catalog: Catalog) -> None:
        self._registry = registry
        self._serving = serving
        self._catalog = catalog
        self._models: dict[str, str] = registry.models()

    def __getitem__(self, task: str) -> str:
        return self._models[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def refresh(self, connection: Connection) -> None:
        """Look up the models of what serves now."""
        models = self._registry.models()
        for name, task in self._registry.items():
            pick = self._serving.main_version(task.prompt)
            try:
                prompt = self._catalog.find(connection, task, pick.version, pick.sha256)
            except (UnknownPromptVersion, ConfigurationError) as error:
                log.error(
                    "a released prompt version does not run here, its jobs wait: deploy the code "
                    "that it fits, or roll it back",
                    task=name,
                    reason=str(error),
                )
            else:
                models[name] = prompt.file.model
        self._models = models


class ServingLoop(Loop):
    """Hears of releases within moments."""

    name = "serving"

    def __init__(self, settings: Settings, serving: Serving, models: ServedModels) -> None:
        super().__init__()
        self._listener = Listener(settings.database_url, releases.CHANNEL, self.name)
        self._serving = serving
        self._models = models
        #: A claim may hear of a release first; what follows from it is this loop's business.
        self._seen = 0

    def stop(self, timeout: float = 5.0) -> None:
        super().stop(timeout)
        if timeout:
            self._listener.close()

    def step(self) -> float:
        self._listener.wait(_POLL)
        with transaction() as connection:
            self.catch_up(connection)
        return 0.0

    def catch_up(self, connection: Connection) -> None:
        """Take in what was released since the last look, and say so."""
        self._serving.keep_up(connection, releases.newest_id(connection))
        if self._serving.newest == self._seen:
            return
        self._models.refresh(connection)
        for release in self._serving.in_force(since=self._seen):
            log.info(
                "prompt versions in force",
                prompt=release.prompt,
                release=release.id,
                kind=release.kind,
                shares=str(Allocation.from_rows(release.allocation)),
            )
        self._seen = self._serving.newest
