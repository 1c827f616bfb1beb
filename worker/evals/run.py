"""Evaluating the cases of a prompt version: the part that is the same for every kind of run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext, EvaluatorOutput

from worker.engine.registry import AnyTask
from worker.evals.cases import AnyDataset
from worker.evals.given import About, Given
from worker.evals.report import CaseReport, Facts, case_reports

#: Answers a case with an output, as JSON.
Answer = Callable[[Given], Awaitable[dict[str, Any]]]


class CaseFailed(Exception):
    """A case has no output to judge; the message says why."""


@dataclass(repr=False)
class Checks(Evaluator[Given, dict[str, Any], About]):
    """The task's own checks, which always apply."""

    task: AnyTask

    def build_serialization_arguments(self) -> dict[str, Any]:
        """None: a report names the checks, and a task is no JSON."""
        return {}

    def evaluate(self, ctx: EvaluatorContext[Given, dict[str, Any], About]) -> EvaluatorOutput:
        """Each check by its name."""
        given = self.task.parse_input(ctx.inputs.values)
        output = self.task.output.model_validate(ctx.output)
        said = {check.__name__: check(given, output) for check in self.task.checks}
        return {f"check {name}": EvaluationReason(not wrong, wrong) for name, wrong in said.items()}


async def evaluate(
    task: AnyTask,
    dataset: AnyDataset,
    answer: Answer,
    facts: Mapping[str, Facts],
    *,
    concurrency: int,
) -> list[CaseReport]:
    """Have every case answered and judge the answers, `concurrency` at a time.

    Args:
        task: whose checks apply.
        dataset: the cases.
        answer: brings an output; a `CaseFailed` fails the case.
        facts: what `answer` finds out about cases by the way, by name.
        concurrency: cases that are answered at once.
    """
    checked = AnyDataset(
        name=dataset.name,
        cases=dataset.cases,
        evaluators=[*dataset.evaluators, Checks(task)],
    )
    found = await checked.evaluate(answer, max_concurrency=concurrency, progress=False)
    return case_reports([case.name or "" for case in dataset.cases], found, facts)
