"""Summarise a text for an audience, in so many words."""

from __future__ import annotations

from pydantic import Field

from worker.engine.task import Task, TaskInput, TaskOutput

#: Models count words only roughly: a summary may run this much over before it is refused.
TOLERANCE = 1.5


class Input(TaskInput):
    text: str = Field(min_length=1)
    max_words: int = Field(ge=10, le=2000)
    audience: str = Field(min_length=1, max_length=200)


class Output(TaskOutput):
    summary: str
    key_points: list[str]


def summary_keeps_to_its_length(input: Input, output: Output) -> str | None:
    words = len(output.summary.split())
    if words == 0:
        return "the summary is empty"
    if words > input.max_words * TOLERANCE:
        return f"the summary has {words} words, {input.max_words} were asked for"
    return None


summarize_text = Task(
    name="summarize_text", input=Input, output=Output, checks=[summary_keeps_to_its_length]
)
