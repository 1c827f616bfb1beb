"""What a case may expect of an output; the evaluators of pydantic-evals that `cases.yaml` names.

Where a path gives a list, every item must meet the expectation. One about nothing is not met.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext, EvaluatorOutput

from worker.evals.given import About, Given
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

Context = EvaluatorContext[Any, dict[str, Any], About]

_STRICT = ConfigDict(extra="forbid", strict=True)

#: The value of what was not judged; pydantic-evals keeps it apart from what passed or failed.
SKIPPED = "skipped"


#: 30 and 30.0 are the same bound, and shown as 30.
Bound = Annotated[float, AfterValidator(lambda n: int(n) if n.is_integer() else n)]


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Expectation(Evaluator[Any, dict[str, Any], About]):
    """Base: subclasses say what is wrong with an output, or None.

    live_only: only a real model can meet it; reported as skipped against recorded replies.
    """

    live_only: bool = False

    def get_default_evaluation_name(self) -> str:
        """The expectation as `cases.yaml` has it, on one line."""
        arguments = self.build_serialization_arguments()
        arguments.pop("live_only", None)
        listed = ", ".join(f"{name}: {quoted(value)}" for name, value in arguments.items())
        return f"{self.get_serialization_name()} {{{listed}}}"

    def evaluate(self, ctx: Context) -> EvaluatorOutput:
        """`True`, `False` and why, or `"skipped"` and why."""
        about: About = ctx.metadata or About()
        given: Given = ctx.inputs
        if (self.live_only or about.live_only) and not given.live:
            return EvaluationReason(SKIPPED, "only a real model can meet it")
        try:
            wrong = self.problem(ctx.output, given)
        except Nothing as nothing:
            wrong = str(nothing)
        return EvaluationReason(wrong is None, wrong)

    @abstractmethod
    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        """What is wrong, with the offending value."""


@dataclass(config=_STRICT, repr=False, kw_only=True)
class _Bounded(Expectation):
    """An expectation about how much there is of something."""

    at: Path
    equals: Bound | None = None
    at_least: Bound | None = None
    at_most: Bound | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.equals is None and self.at_least is None and self.at_most is None:
            raise ValueError("give one of equals, at_least, at_most")
        return self

    @abstractmethod
    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        """How much there is, of what, and where."""

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        def wrong(size: tuple[float, str, Any]) -> str | None:
            number, unit, value = size
            off = self._off(number)
            return off and f"{number:g}{unit}, {off}: {quoted(value)}"

        return first(self.sizes(output), wrong)

    def _off(self, number: float) -> str | None:
        if self.equals is not None and number != self.equals:
            return f"not {self.equals:g}"
        if self.at_least is not None and number < self.at_least:
            return f"below {self.at_least:g}"
        if self.at_most is not None and number > self.at_most:
            return f"above {self.at_most:g}"
        return None


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Count(_Bounded):
    """How many items a list has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        value = found(self.at, output)
        if not isinstance(value, list):
            raise Nothing(f"{quoted(value)} at {self.at} is no list")
        return [(len(value), " items", value)]


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Number(_Bounded):
    """How large a number is."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(each, "", each) for each in numbers(self.at, output)]


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Words(_Bounded):
    """How many words a text has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(len(text.split()), " words", text) for text in texts(self.at, output)]


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Characters(_Bounded):
    """How many characters a text has."""

    def sizes(self, output: dict[str, Any]) -> list[tuple[float, str, Any]]:
        return [(len(text), " characters", text) for text in texts(self.at, output)]


@dataclass(config=_STRICT, repr=False, kw_only=True)
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


@dataclass(config=_STRICT, repr=False, kw_only=True)
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


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Matches(Expectation):
    """A regular expression that must match somewhere in the text (`^…$` for all of it)."""

    at: Path
    regex: Pattern

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        return first(
            texts(self.at, output),
            lambda text: None if re.search(self.regex, text) else f"no match in {quoted(text)}",
        )


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Equals(Expectation):
    """The one right value; a list is compared as a whole."""

    at: Path
    value: Any

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        value = found(self.at, output)
        return None if value == self.value else f"it is {quoted(value)}"


@dataclass(config=_STRICT, repr=False, kw_only=True)
class OneOf(Expectation):
    """The right values."""

    at: Path
    values: list[Any]

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        return first(
            items(self.at, output),
            lambda each: None if each in self.values else f"it is {quoted(each)}",
        )


@dataclass(config=_STRICT, repr=False)
class NotEmpty(Expectation):
    """Something is there, and no text in it is blank."""

    at: Path

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        for number, each in enumerate(items(self.at, output), start=1):
            if each in ({}, []) or (isinstance(each, str) and not each.strip()):
                return f"item {number} is empty: {quoted(each)}"
        return None


@dataclass(config=_STRICT, repr=False, kw_only=True)
class Quotes(Expectation):
    """The texts stand in a field of the input word for word; white space does not count."""

    at: Path
    field: str

    def problem(self, output: dict[str, Any], given: Given) -> str | None:
        if self.field not in given.values:
            return f"the input has no field {self.field!r}"
        source = _one_line(str(given.values[self.field]))
        return first(
            texts(self.at, output),
            lambda text: None if _one_line(text) in source else f"not there: {quoted(text)}",
        )


@dataclass(config=_STRICT, repr=False)
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
