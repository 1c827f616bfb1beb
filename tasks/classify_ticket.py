"""Sort a support ticket: category, urgency, mood, and whether a person must look at it now."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worker.engine.task import Task, TaskInput, TaskOutput


class Input(TaskInput):
    subject: str = Field(max_length=1000)
    body: str
    categories: list[str] = Field(min_length=2, max_length=50)


class Output(TaskOutput):
    category: str
    urgency: Literal["low", "normal", "high", "critical"]
    sentiment: Literal["negative", "neutral", "positive"]
    summary: str
    needs_human: bool


def category_is_allowed(input: Input, output: Output) -> str | None:
    if output.category in input.categories:
        return None
    return f"{output.category!r} is not one of {', '.join(input.categories)}"


classify_ticket = Task(
    name="classify_ticket",
    input=Input,
    output=Output,
    checks=[category_is_allowed],
    call_timeout=60,
)
