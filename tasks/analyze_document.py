"""Read a document and say what matters in it, section by section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worker.engine.task import Task, TaskInput, TaskOutput


class Input(TaskInput):
    document_type: str = Field(min_length=1, max_length=200)
    focus_areas: list[str] = Field(min_length=1, max_length=20)
    output_depth: Literal["summary", "detailed", "comprehensive"]
    document: str = Field(min_length=1)


class Pair(TaskOutput):
    """A map is a list of pairs: a structured-output schema cannot hold free-form keys."""

    key: str
    value: str


class Item(TaskOutput):
    name: str
    description: str
    priority: Literal["high", "medium", "low"]
    metadata: list[Pair]


class Section(TaskOutput):
    heading: str
    items: list[Item]


class Output(TaskOutput):
    title: str
    sections: list[Section]


def every_section_has_items(input: Input, output: Output) -> str | None:
    if not output.sections:
        return "there are no sections"
    empty = [section.heading for section in output.sections if not section.items]
    return f"sections without items: {', '.join(empty)}" if empty else None


analyze_document = Task(
    name="analyze_document",
    input=Input,
    output=Output,
    checks=[every_section_has_items],
    call_timeout=180,
)
