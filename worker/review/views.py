"""What the page shows of a sample: two sides, of which nothing tells which is which."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from worker.engine.registry import AnyTask
from worker.review.document import Row, alone, compare, humanize
from worker.review.verdicts import to_choice
from worker.storage.review_samples import Sample
from worker.storage.reviews import Review, Verdict


@dataclass(frozen=True, slots=True)
class CheckView:
    """A check of the task on an output; `problem` is what it found, if anything."""

    name: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SideView:
    """One side: an output with its checks, or why there is none."""

    name: str
    state: str
    failure: str | None
    problems: list[dict[str, str]]
    checks: list[CheckView]
    warnings: list[CheckView]
    raw: str | None
    origin: str | None = None
    facts: str | None = None


@dataclass(frozen=True, slots=True)
class SampleView:
    """A sample as one reviewer sees it. `rows` is empty if no side has an output."""

    number: int
    source: str
    input: list[Row]
    input_raw: str
    rows: list[Row]
    sides: list[SideView]
    pending: bool
    identical: bool
    choice: str | None = None
    note: str = ""


def view_sample(review: Review, sample: Sample, task: AnyTask, *, revealed: bool) -> SampleView:
    """The sample in the order in which it is shown; with `revealed`, each side says what it is."""
    outcomes = [("candidate", sample.candidate)]
    if review.baseline_sha256 is not None:
        outcomes.append(("baseline", sample.baseline))
        if not sample.candidate_left:
            outcomes.reverse()
    names = ["left", "right"] if len(outcomes) == 2 else ["output"]
    sides = []
    for name, (role, outcome) in zip(names, outcomes, strict=True):
        side = _side(review, task, name, outcome or {"state": "pending"})
        sides.append(_reveal(side, review, role, outcome or {}) if revealed else side)
    given = _in_order(task.input, sample.input)
    return SampleView(
        number=sample.number,
        source=sample.source,
        input=alone(given),
        input_raw=_json(given),
        rows=_rows(task, [outcome or {} for _, outcome in outcomes]),
        sides=sides,
        pending=any(outcome is None for _, outcome in outcomes),
        identical=len(sides) == 2 and sides[0].raw is not None and sides[0].raw == sides[1].raw,
    )


def with_verdict(view: SampleView, sample: Sample, verdict: Verdict | None) -> SampleView:
    """The view with what the reviewer said before."""
    if verdict is None:
        return view
    return replace(view, choice=to_choice(sample, verdict), note=verdict.note)


def _side(review: Review, task: AnyTask, name: str, outcome: Mapping[str, Any]) -> SideView:
    error = outcome.get("error") or {}
    output = outcome.get("output")
    problems = list(error.get("problems") or [])
    found = {each["path"]: each["problem"] for each in problems}
    names = [check.__name__ for check in task.checks]
    judged = output is not None or any(each in found for each in names)
    return SideView(
        name=name,
        state=str(outcome["state"]),
        failure=_failure(review, error, str(outcome["state"])),
        problems=[each for each in problems if each["path"] not in names],
        checks=[CheckView(humanize(each), found.get(each)) for each in names] if judged else [],
        warnings=[
            CheckView(humanize(each["check"]), each["problem"])
            for each in outcome.get("warnings") or []
        ],
        raw=None if output is None else _json(_in_order(task.output, output)),
    )


def _failure(review: Review, error: Mapping[str, Any], state: str) -> str | None:
    if state in ("succeeded", "pending"):
        return None
    if state == "cancelled":
        return "The job was cancelled."
    words = (
        f"{humanize(str(error.get('type', 'failed')))}: {error.get('message', 'no reason given')}"
    )
    return _blinded(review, words)


def _blinded(review: Review, text: str) -> str:
    """A message without the names of the versions, which it may well quote."""
    for version in filter(None, (review.version, review.baseline_version)):
        pattern = rf"(?<![\w.]){re.escape(version)}(@[0-9a-f]+)?(?![\w]|\.\d)"
        text = re.sub(pattern, "[version]", text)
    return text


def _reveal(side: SideView, review: Review, role: str, outcome: Mapping[str, Any]) -> SideView:
    version = review.version if role == "candidate" else review.baseline_version
    facts = []
    if model := outcome.get("model"):
        facts.append(str(model))
    if calls := outcome.get("calls"):
        facts.append("1 call" if calls == 1 else f"{calls} calls")
    if tokens := outcome.get("output_tokens"):
        facts.append(f"{tokens:,} output tokens")
    if cost := outcome.get("cost_usd"):
        facts.append(f"${float(cost):.4f}")
    return replace(side, origin=f"{version} ({role})", facts=", ".join(facts))


def _rows(task: AnyTask, outcomes: list[Mapping[str, Any]]) -> list[Row]:
    outputs = [outcome.get("output") for outcome in outcomes]
    documents = [None if each is None else _in_order(task.output, each) for each in outputs]
    left, right = documents[0], documents[1] if len(documents) == 2 else None
    if left is not None and right is not None:
        return compare(left, right)
    if left is not None:
        return alone(left)
    if right is not None:
        return [replace(row, left=None, right=row.left) for row in alone(right)]
    return []


def _in_order(model: type[BaseModel], document: dict[str, Any]) -> dict[str, Any]:
    """The document with its fields in the model's order: `jsonb` keeps none.

    One that fits the model no longer is shown as it is stored.
    """
    try:
        return model.model_validate_json(json.dumps(document)).model_dump(mode="json")
    except (ValidationError, ValueError):
        return document


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
