"""From a claimed job to the request that is sent for it."""

from __future__ import annotations

import json
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
class Prepared:
    """Everything that an attempt needs to know before it calls."""

    task: AnyTask
    input: BaseModel
    prompt: Prompt
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

    def prepare(self, claim: Claim) -> Prepared:
        """Validate the input again (it may have come by SQL), choose the version and render it.

        Raises:
            Unrunnable: unknown task or version, an input that does not fit, a template that fails.
        """
        try:
            task = self._registry[claim.task]
            prompt = self._registry.prompts.get(task.prompt, claim.prompt_version)
            task_input = task.parse_input(claim.input)
        except UnknownTask as error:
            raise _unrunnable("unknown_task", error) from None
        except UnknownPromptVersion as error:
            raise _unrunnable("unknown_prompt_version", error) from None
        except InvalidInput as error:
            raise _unrunnable("invalid_input", error) from None
        except Exception as error:  # a validator is the task author's code
            summary = f"the input model of {claim.task} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("input_error", summary, message)) from None
        return Prepared(task, task_input, prompt, self._request(claim, task, prompt, task_input))

    def _request(self, claim: Claim, task: AnyTask, prompt: Prompt, given: BaseModel) -> Request:
        values: dict[str, Any] = given.model_dump()
        try:
            system, user = prompt.render(values, self._schema_texts[task.name])
        except Exception as error:  # a template is code: it may fail in any way
            summary = f"the template of {prompt.name}/{prompt.version} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("template_error", summary, message)) from None
        return Request(
            model=claim.model or prompt.file.model,
            max_tokens=prompt.file.max_tokens,
            system=system,
            user=user,
            schema=self._schemas[task.name],
            effort=prompt.file.effort,
            user_id=claim.user_id,
        )


def _unrunnable(kind: str, error: ClaudeJobsError) -> Unrunnable:
    # An input error quotes field names and limits, never a value; still, it stays in Postgres.
    return Unrunnable(Failure(kind, kind.replace("_", " "), str(error)))
