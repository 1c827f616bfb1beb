"""What an expectation looks at: a JMESPath into the output, and what is found there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator

#: Characters of an offending value that a report quotes.
QUOTED = 160


class Nothing(ValueError):
    """There is nothing at a path, or nothing of the kind that is asked for."""


def _path(value: str) -> str:
    try:
        jmespath.compile(value)
    except JMESPathError as error:
        reason = str(error).partition(":\n")[0].partition("\n")[0]
        raise ValueError(f"{value!r} is no JMESPath (https://jmespath.org): {reason}") from None
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


#: A place in the output, as in `sections[].items[].name`; `@` is the whole output.
Path = Annotated[str, AfterValidator(_path)]
Pattern = Annotated[str, AfterValidator(_pattern)]


def found(path: str, output: Any) -> Any:
    """The value at a path.

    Raises:
        Nothing: there is none: a path with a typing error must not satisfy any expectation.
    """
    try:
        value = jmespath.search(path, output)
    except JMESPathError as error:  # a function that does not take what it finds there
        raise Nothing(f"{path}: {str(error).partition(chr(10))[0]}") from None
    if value is None:
        raise Nothing(f"there is nothing at {path}")
    return value


def items(path: str, output: Any) -> list[Any]:
    """What stands at a path, one by one: the items of a list, or else the value alone.

    Raises:
        Nothing: there is none; an expectation about no item at all would always hold.
    """
    value = found(path, output)
    if value == []:
        raise Nothing(f"there is nothing at {path}: the list is empty")
    return value if isinstance(value, list) else [value]


def texts(path: str, output: Any) -> list[str]:
    """The same, as texts: what is no string is taken as JSON, the whole output for example."""
    return [each if isinstance(each, str) else as_json(each) for each in items(path, output)]


def numbers(path: str, output: Any) -> list[float]:
    """The same, as numbers.

    Raises:
        Nothing: there is none, or something that is no number.
    """
    for each in (values := items(path, output)):
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise Nothing(f"{quoted(each)} at {path} is no number")
    return values


def first(values: Iterable[Any], wrong: Callable[[Any], str | None]) -> str | None:
    """What is wrong with the first value with which anything is."""
    return next((problem for value in values if (problem := wrong(value)) is not None), None)


def as_json(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def quoted(value: Any) -> str:
    """A value as a report shows it: on one line, and not at any length."""
    text = as_json(value)
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 1]}…"
