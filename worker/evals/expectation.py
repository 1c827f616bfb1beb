"""What all expectations share: when they are judged, what a report says, bounds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext, EvaluatorOutput

from worker.evals.given import About, Given
from worker.evals.values import Nothing, Path, first, quoted

Context = EvaluatorContext[Any, dict[str, Any], About]

STRICT = ConfigDict(extra="forbid", strict=True)

#: The value of what was not judged; pydantic-evals keeps it apart from what passed or failed.
SKIPPED = "skipped"


#: 30 and 30.0 are the same bound, and shown as 30.
Bound = Annotated[float, AfterValidator(lambda n: int(n) if n.is_integer() else n)]


@dataclass(config=STRICT, repr=False, kw_only=True)
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


@dataclass(config=STRICT, repr=False, kw_only=True)
class Bounded(Expectation):
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
