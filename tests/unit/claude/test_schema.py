"""The schema lint: what the API cannot hold is refused at start-up, by path and with a remedy."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from pydantic import BaseModel, Field, create_model

from worker.claude.schema import for_api, lint
from worker.engine.task import TaskOutput
from worker.errors import ConfigurationError


class Inner(TaskOutput):
    scores: dict[str, int]


class WithMap(TaskOutput):
    items: list[Inner]


class WithTuple(TaskOutput):
    pair: tuple[int, str]


class WithAny(TaskOutput):
    what: Any


class WithBareList(TaskOutput):
    things: list  # type: ignore[type-arg]


class Node(TaskOutput):
    children: list[Node]


@pytest.mark.parametrize(
    ("model", "path", "remedy"),
    [
        (WithMap, "items[].scores", "list of pairs"),
        (WithTuple, "pair", "named fields"),
        (WithAny, "what", "say what it holds"),
        (WithBareList, "things[]", "say what it holds"),
        (Node, "children[]", "fixed number of levels"),
    ],
)
def test_what_the_api_cannot_hold_is_named(model: type[BaseModel], path: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        for_api(model)
    assert f"{path}: " in str(caught.value)
    assert remedy in str(caught.value)


def test_too_many_optionals_and_unions_are_counted() -> None:
    fields: dict[str, Any] = {f"f{n}": (Optional[int], None) for n in range(25)}  # noqa: UP045
    problems = list(lint(create_model("Many", __base__=TaskOutput, **fields)))
    assert any("25 optional fields" in problem for problem in problems)
    assert any("25 unions" in problem for problem in problems)


def test_a_type_that_is_used_twice_is_not_recursion() -> None:
    class Leaf(TaskOutput):
        text: str = Field(max_length=10)

    class Both(TaskOutput):
        left: Leaf
        right: Leaf

    assert list(lint(Both)) == []
    assert for_api(Both)["additionalProperties"] is False
