"""What a case may expect of an output; the evaluators of pydantic-evals that `cases.yaml` names.

Where a path gives a list, every item must meet the expectation. One about nothing is not met.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic.dataclasses import dataclass
from pydantic_evals.evaluators import EvaluationReason, EvaluatorOutput

from worker.evals.expectation import SKIPPED, STRICT, Bounded, Context, Expectation
from worker.evals.given import Given
from worker.evals.values import (
    Nothing,
    Path,
    Pattern,
    first,
    found,
    items,
    numbers,
    quoted,
    texts,
)


@dataclass(config=STRICT, repr=False, kw_only=True)
class Count(Bounded):
    """How many items a list has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        value = found(self.at, output)
        if not isinstance(value, list):
            raise Nothing(f"{quoted(value)} at {self.at} is no list")
        return [(len(value), " items", value)]


@dataclass(config=STRICT, repr=False, kw_only=True)
class Number(Bounded):
    """How large a number is."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(each, "", each) for each in numbers(self.at, output)]


@dataclass(config=STRICT, repr=False, kw_only=True)
class Words(Bounded):
    """How many words a text has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(len(text.split()), " words", text) for text in texts(self.at, output)]


@dataclass(config=STRICT, repr=False, kw_only=True)
class Characters(Bounded):
    """How many characters a text has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(len(text), " characters", text) for text in texts(self.at, output)]


@dataclass(config=STRICT, repr=False, kw_only=True)
class Contains(Expectation):
    """Texts that must all occur; in a list, each in some item. Upper and lower case are the same
    unless `case_sensitive`."""

    at: Path = "@"
    text: str | list[str]
    case_sensitive: bool = False

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        places = texts(self.at, output)
        for wanted in _listed(self.text):
            if not any(_occurs(wanted, place, self.case_sensitive) for place in places):
                return f"{quoted(wanted)} does not occur in {quoted(found(self.at, output))}"
        return None


@dataclass(config=STRICT, repr=False, kw_only=True)
class NotContains(Expectation):
    """Texts none of which may occur; otherwise like `Contains`."""

    at: Path = "@"
    text: str | list[str]
    case_sensitive: bool = False

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        for place in texts(self.at, output):
            for unwanted in _listed(self.text):
                if _occurs(unwanted, place, self.case_sensitive):
                    return f"{quoted(unwanted)} occurs in {quoted(place)}"
        return None


@dataclass(config=STRICT, repr=False, kw_only=True)
class Matches(Expectation):
    """A regular expression that must match somewhere in the text (`^…$` for all of it)."""

    at: Path
    regex: Pattern

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        return first(
            texts(self.at, output),
            lambda text: None if re.search(self.regex, text) else f"no match in {quoted(text)}",
        )


@dataclass(config=STRICT, repr=False, kw_only=True)
class Equals(Expectation):
    """The one right value; a list is compared as a whole."""

    at: Path
    value: Any

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        value = found(self.at, output)
        return None if value == self.value else f"it is {quoted(value)}"


@dataclass(config=STRICT, repr=False, kw_only=True)
class OneOf(Expectation):
    """The right values."""

    at: Path
    values: list[Any]

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        return first(
            items(self.at, output),
            lambda each: None if each in self.values else f"it is {quoted(each)}",
        )


@dataclass(config=STRICT, repr=False)
class NotEmpty(Expectation):
    """Something is there, and no text in it is blank."""

    at: Path

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        for number, each in enumerate(items(self.at, output), start=1):
            if each in ({}, []) or (isinstance(each, str) and not each.strip()):
                return f"item {number} is empty: {quoted(each)}"
        return None


@dataclass(config=STRICT, repr=False, kw_only=True)
class Quotes(Expectation):
    """The texts stand in a field of the input word for word; white space does not count."""

    at: Path
    field: str

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        if self.field not in given.values:
            return f"the input has no field {self.field!r}"
        source = _one_line(str(given.values[self.field]))

        def wrong(text: str) -> str | None:
            line = _one_line(text)  # a blank one stands everywhere
            return None if line and line in source else f"not there: {quoted(text)}"

        return first(texts(self.at, output), wrong)


@dataclass(config=STRICT, repr=False)
class Rubric(Expectation):
    """What Claude is to judge, in a sentence or two; see `tasks/judge_output.py`.

    Each is a job of its own, so it is skipped where there are none: against recorded replies.
    """

    text: str

    async def evaluate(self, ctx: Context) -> EvaluatorOutput:  # type: ignore[override]
        """What the judge says."""
        given: Given = ctx.inputs
        if given.judge is None:
            return EvaluationReason(SKIPPED, "a rubric is judged in live runs")
        return EvaluationReason(*await given.judge(self.text, given, ctx.output))

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        """Not asked: `evaluate` waits for the judge."""
        raise AssertionError("a rubric is judged by a job")


#: Every expectation by its name in `cases.yaml`.
EXPECTATIONS: dict[str, type[Expectation]] = {
    each.__name__: each
    for each in (
        Count,
        Number,
        Words,
        Characters,
        Contains,
        NotContains,
        Matches,
        Equals,
        OneOf,
        NotEmpty,
        Quotes,
        Rubric,
    )
}

#: Those that may be written without the name of their one argument: `NotEmpty: summary`.
SHORT: tuple[type[Expectation], ...] = (NotEmpty, Rubric)


def _listed(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text


def _occurs(wanted: str, place: str, case_sensitive: bool) -> bool:
    return wanted in place if case_sensitive else wanted.casefold() in place.casefold()


def _one_line(text: str) -> str:
    return " ".join(text.split())
