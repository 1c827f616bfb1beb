"""From a claimed job to the request that is sent for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from worker.claude.request import Request
from worker.claude.schema import for_api
from worker.engine.prompts import Prompt
from worker.engine.registry import AnyTask, Registry
from worker.errors import ClaudeJobsError, Failure, InvalidInput, UnknownPromptVersion, UnknownTask
from worker.storage.claim import Claim


class Unrunnable(Exception):
    """The row cannot become a request; another attempt would find the same."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Choice:
    """What a claim runs with; chosen from the row alone, without touching its input."""

    task: AnyTask
    prompt: Prompt
    model: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input as the task's checks see it, and the request that is sent for it."""

    input: BaseModel
    request: Request


class Preparer:
    """Prepares claims with the tasks and prompts of this process."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas = {name: for_api(task.output) for name, task in registry.items()}
        self._schema_texts = {
            name: json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
            for name, schema in self._schemas.items()
        }

    def choose(self, claim: Claim) -> Choice:
        """The task, the prompt version and the model of a claim.

        Raises:
            Unrunnable: the task or the version is unknown.
        """
        try:
            task = self._registry[claim.task]
            prompt = self._registry.prompts.get(task.prompt, claim.prompt_version)
        except UnknownTask as error:
            raise _unrunnable("unknown_task", error) from None
        except UnknownPromptVersion as error:
            raise _unrunnable("unknown_prompt_version", error) from None
        return Choice(task, prompt, claim.model or prompt.file.model)

    def prepare(self, claim: Claim, choice: Choice) -> Prepared:
        """Validate the input again – it may have come by SQL – and render the prompt with it.

        Raises:
            Unrunnable: the input does not fit, or the template fails on it.
        """
        return self.prepare_input(choice, claim.input, claim.user_id)

    def prepare_input(
        self, choice: Choice, values: Mapping[str, Any], user_id: str | None = None
    ) -> Prepared:
        """The same for an input that no job has; see `prepare`."""
        try:
            task_input = choice.task.parse_input(values)
        except InvalidInput as error:
            raise _unrunnable("invalid_input", error) from None
        except Exception as error:  # a validator is the task author's code
            summary = f"the input model of {choice.task.name} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("input_error", summary, message)) from None
        return Prepared(task_input, self._request(choice, task_input, user_id))

    def _request(self, choice: Choice, given: BaseModel, user_id: str | None) -> Request:
        task, prompt = choice.task, choice.prompt
        values: dict[str, Any] = given.model_dump()
        try:
            system, user = prompt.render(values, self._schema_texts[task.name])
        except Exception as error:  # a template is code: it may fail in any way
            summary = f"the template of {prompt.name}/{prompt.version} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("template_error", summary, message)) from None
        return Request(
            model=choice.model,
            max_tokens=prompt.file.max_tokens,
            system=system,
            user=user,
            schema=self._schemas[task.name],
            effort=prompt.file.effort,
            user_id=user_id,
            cache=prompt.file.cache,
        )


def _unrunnable(kind: str, error: ClaudeJobsError) -> Unrunnable:
    # An input error quotes field names and limits, never a value; still, it stays in Postgres.
    return Unrunnable(Failure(kind, kind.replace("_", " "), str(error)))
