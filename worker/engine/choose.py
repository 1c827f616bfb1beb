"""What a claimed job runs with: its task, the prompt version, the model, the schema."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from worker.engine.catalog import Catalog
from worker.engine.pins import parse_pin
from worker.engine.prompts import Prompt
from worker.engine.registry import AnyTask, Registry
from worker.engine.serving import PINNED, Pick, Serving
from worker.errors import (
    ClaudeJobsError,
    ConfigurationError,
    Failure,
    InvalidInput,
    UnknownPromptVersion,
    UnknownTask,
)
from worker.storage.claim import Claim, Hints


class Unrunnable(Exception):
    """The row cannot become a request; another attempt would find the same."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


class UnfitRelease(Exception):
    """The released version does not run with this code; another worker, or a rollback, may help."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Choice:
    """What a claim runs with; chosen from the row alone, without touching its input."""

    task: AnyTask
    prompt: Prompt
    model: str
    variant: str = PINNED


class Chooser:
    """Chooses for claims, from the tasks of this process and the versions that serve."""

    def __init__(self, registry: Registry, serving: Serving, catalog: Catalog) -> None:
        self._registry = registry
        self._serving = serving
        self._catalog = catalog

    def choose(self, connection: Connection, claim: Claim) -> Choice:
        """What `claim` runs with. No release that was committed before the claim is missed.

        Raises:
            Unrunnable: the task is unknown, or the version that the job is pinned to.
            UnfitRelease: the version that was released cannot be run by this process.
        """
        try:
            task = self._registry[claim.task]
        except UnknownTask as error:
            raise unrunnable("unknown_task", error) from None
        self._serving.keep_up(connection, claim.newest_release)
        try:
            pick = self._pick(task, claim.id, claim.user_id, claim.prompt_version)
            prompt = self._catalog.find(connection, task, pick.version, pick.sha256)
        except (UnknownPromptVersion, InvalidInput, ConfigurationError) as error:
            if claim.prompt_version is not None:
                raise unrunnable("unknown_prompt_version", error) from None
            summary = "the released prompt version does not run here"
            raise UnfitRelease(Failure("unfit_release", summary, str(error))) from None
        return Choice(task, prompt, claim.model or prompt.file.model, pick.variant)

    def foresee(self, job_id: UUID, hints: Hints) -> tuple[Choice, int] | None:
        """The choice for a job that is not claimed yet, and the newest release that it knows of.

        None where that takes more than this process has heard. It is the choice of a claim only if
        the hints are right and no newer release is out by then; `claim_and_open` sees to both.
        """
        newest = self._serving.newest  # first: what is chosen below may be newer, never older
        try:
            task = self._registry[hints.task]
            pick = self._pick(task, job_id, hints.user_id, hints.prompt_version)
            prompt = self._catalog.known(task, pick.version, pick.sha256)
        except (UnknownTask, UnknownPromptVersion, InvalidInput):
            return None  # whoever reads the row knows what to do
        if prompt is None:
            return None
        return Choice(task, prompt, hints.model or prompt.file.model, pick.variant), newest

    def still_holds(self, claim: Claim, choice: Choice) -> bool:
        """Whether `claim` would get the same version now, as far as this process has heard."""
        if choice.variant == PINNED or self._serving.newest <= claim.newest_release:
            return True
        pick = self._serving.pick(choice.task.prompt, claim.user_id, claim.id)
        prompt = choice.prompt
        return pick.version == prompt.version and prompt.sha256.startswith(pick.sha256)

    def _pick(self, task: AnyTask, job_id: UUID, user_id: str | None, pin: str | None) -> Pick:
        if pin is None:
            return self._serving.pick(task.prompt, user_id, job_id)
        return Pick(*parse_pin(pin), variant=PINNED)


def unrunnable(kind: str, error: ClaudeJobsError) -> Unrunnable:
    """For what cannot become a request because of `error`."""
    # An input error quotes field names and limits, never a value; still, it stays in Postgres.
    return Unrunnable(Failure(kind, kind.replace("_", " "), str(error)))
