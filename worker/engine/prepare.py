"""From a claimed job to the request that is sent for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from worker.claude.request import Request
from worker.claude.schema import for_api
from worker.engine.choose import Choice, Unrunnable, unrunnable
from worker.engine.registry import Registry
from worker.engine.rendering import OutputSchema, render_request
from worker.errors import Failure, InvalidInput
from worker.storage.claim import Claim


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input as the task's checks see it, and the request that is sent for it."""

    input: BaseModel
    request: Request


class Preparer:
    """Prepares claims with the tasks of this process."""

    def __init__(self, registry: Registry) -> None:
        self.schemas = {name: _schema_of(task.output) for name, task in registry.items()}

    def prepare(self, claim: Claim, choice: Choice) -> Prepared:
        """Validate the input again – it may have come by SQL – and render the prompt with it.

        Raises:
            Unrunnable: the input does not fit, or the template fails on it.
        """
        # A row may have any JSON; text also stands for what is nested too deep to be read.
        if not isinstance(claim.input, dict):
            wrong = f"{claim.task}: input is no object, or nested too deep"
            raise unrunnable("invalid_input", InvalidInput(wrong))
        return self.prepare_input(choice, claim.input, claim.user_id)

    def prepare_input(
        self, choice: Choice, values: Mapping[str, Any], user_id: str | None = None
    ) -> Prepared:
        """The same for an input that no job has; see `prepare`."""
        try:
            task_input = choice.task.parse_input(values)
        except InvalidInput as error:
            raise unrunnable("invalid_input", error) from None
        except Exception as error:  # a validator is the task author's code
            summary = f"the input model of {choice.task.name} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("input_error", summary, message)) from None
        return Prepared(task_input, self._request(choice, task_input, user_id))

    def _request(self, choice: Choice, given: BaseModel, user_id: str | None) -> Request:
        try:
            schema = self.schemas[choice.task.name]
            return render_request(choice.prompt, choice.model, given.model_dump(), schema, user_id)
        except Exception as error:  # a template is code: it may fail in any way
            summary = f"the template of {choice.prompt.name}/{choice.prompt.version} failed"
            message = f"{summary}: {type(error).__name__}: {error}"
            raise Unrunnable(Failure("template_error", summary, message)) from None


def _schema_of(model: type[BaseModel]) -> OutputSchema:
    return OutputSchema(json.dumps(for_api(model), ensure_ascii=False, separators=(",", ":")))
