"""What a run found, as data: shown in the terminal, written as JSON and JUnit, kept in Postgres."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_evals.evaluators import EvaluationResult
from pydantic_evals.reporting import EvaluationReport, ReportCase

from worker.engine.checks import storable

Mode = Literal["recorded", "live"]
Verdict = Literal["passed", "failed", "skipped"]


@dataclass
class Facts:
    """What is known of a case besides its output."""

    job: str | None = None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    warnings: list[dict[str, str]] = field(default_factory=list)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Judged(_Part):
    """An expectation or a check of the task; `why`: the offending value, or why it was skipped."""

    name: str
    verdict: Verdict
    why: str | None = None


class CaseReport(_Part):
    """A case: it failed as a whole (`error`), or by its expectations."""

    name: str
    error: str | None = None
    expectations: list[Judged] = []
    warnings: list[dict[str, str]] = []
    job: str | None = None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed; what was skipped did not."""
        return self.error is None and not self.count("failed")

    def count(self, verdict: Verdict) -> int:
        """How many expectations were judged so."""
        return sum(each.verdict == verdict for each in self.expectations)


class Report(_Part):
    """A run. `cost_usd` is what it spent, judges included; None if a call has no known price."""

    prompt: str
    version: str
    prompt_sha256: str
    cases_sha256: str
    mode: Mode
    passed: bool
    capped: bool = False
    max_cost_usd: Decimal | None = None
    cost_usd: Decimal | None = Decimal(0)
    cases: list[CaseReport]

    @property
    def failures(self) -> list[CaseReport]:
        """The cases that did not pass."""
        return [case for case in self.cases if not case.passed]

    def count(self, verdict: Verdict) -> int:
        """How many expectations were judged so, over all cases."""
        return sum(case.count(verdict) for case in self.cases)

    def as_stored(self) -> str:
        """JSON that Postgres can store: outputs may quote what `jsonb` cannot hold."""
        return json.dumps(storable(self.model_dump(mode="json")), ensure_ascii=False)


def case_reports(
    names: list[str], found: EvaluationReport[Any, Any, Any], facts: Mapping[str, Facts]
) -> list[CaseReport]:
    """The cases of a report of pydantic-evals, in the order of `names`."""
    made = {each.name: _case(each, facts.get(each.name, Facts())) for each in found.cases}
    for failure in found.failures:
        # "CaseFailed: why"; what else an exception says may go over several lines.
        reason = failure.error_message.partition(": ")[2] or failure.error_message
        known = vars(facts.get(failure.name, Facts()))
        made[failure.name] = CaseReport(name=failure.name, error=" ".join(reason.split()), **known)
    return [made[name] for name in names]


def _case(case: ReportCase[Any, Any, Any], facts: Facts) -> CaseReport:
    results: list[EvaluationResult[Any]] = [*case.assertions.values(), *case.labels.values()]
    judged = [_judged(each) for each in results]
    judged += [
        Judged(name=each.name, verdict="failed", why=each.error_message)
        for each in case.evaluator_failures
    ]
    return CaseReport(name=case.name, expectations=judged, **vars(facts))


def _judged(result: EvaluationResult[Any]) -> Judged:
    if isinstance(result.value, bool):
        verdict: Verdict = "passed" if result.value else "failed"
    else:
        verdict = "skipped"
    return Judged(name=result.name, verdict=verdict, why=result.reason)
