"""`python -m worker.evals.schema > prompts/cases.schema.json`: what editors know of `cases.yaml`.

What pydantic-evals makes of our classes lacks their inherited fields, and offers its own ones.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Union

from pydantic import ConfigDict, Field, create_model

from worker.evals.expectations import EXPECTATIONS, SHORT
from worker.evals.given import About

_CLOSED = ConfigDict(extra="forbid")


def cases_schema() -> dict[str, Any]:
    """The JSON schema of `cases.yaml`."""
    evaluators: Any = Union[tuple(_spec(name) for name in EXPECTATIONS)]  # noqa: UP007
    case: Any = create_model(
        "Case",
        __config__=_CLOSED,
        name=(str, ...),
        inputs=(dict[str, Any], Field(description="The task's input; {$file: path} reads a text.")),
        metadata=(About | None, None),
        evaluators=(list[evaluators], []),
    )
    whole: Any = create_model(
        "Cases",
        __config__=_CLOSED,
        evaluators=(list[evaluators], Field([], description="What is expected in every case.")),
        cases=(list[case], ...),
    )
    schema: dict[str, Any] = whole.model_json_schema()
    return schema


def _spec(name: str) -> Any:
    expectation: Any = EXPECTATIONS[name]
    written = expectation | str if expectation in SHORT else expectation
    fields: dict[str, Any] = {name: (written, ...)}
    return create_model(f"{name}Spec", __config__=_CLOSED, **fields)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(cases_schema(), indent=2) + "\n")
