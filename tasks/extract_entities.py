"""Find the people, places, dates … that a text mentions."""

from __future__ import annotations

from pydantic import Field

from worker.engine.task import Task, TaskInput, TaskOutput


class Input(TaskInput):
    text: str = Field(min_length=1)
    entity_types: list[str] = Field(min_length=1, max_length=20)


class Entity(TaskOutput):
    name: str
    type: str
    mentions: list[str]
    context: str


class Output(TaskOutput):
    entities: list[Entity]


def every_entity_is_named(input: Input, output: Output) -> str | None:
    nameless = sum(not entity.name.strip() for entity in output.entities)
    return f"{nameless} entities have no name" if nameless else None


extract_entities = Task(
    name="extract_entities", input=Input, output=Output, checks=[every_entity_is_named]
)
