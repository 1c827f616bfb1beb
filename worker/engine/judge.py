"""Accepting a reply: it is read, then every check of the task looks at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from worker.claude.reply import Reply
from worker.engine.checks import in_words
from worker.engine.reading import (
    Empty,
    Invalid,
    Reading,
    Refused,
    Salvaged,
    Truncated,
    Valid,
    read_reply,
)
from worker.errors import Failure

Check = Callable[[Any, Any], str | None]
Remedy = Literal["repair", "enlarge", "fall_back", "retry", "none"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An output, and what is to be remembered about it."""

    output: BaseModel
    warnings: list[dict[str, str]] = field(default_factory=list)


class Rejected(Exception):
    """A reply that must not become a result.

    `remedy` is what can be tried within the attempt; `problems` is what a repair is told;
    `failed_checks` names the checks that found them, if it was checks.
    """

    def __init__(
        self,
        outcome: str,
        failure: Failure,
        remedy: Remedy,
        problems: list[dict[str, str]] | None = None,
        failed_checks: Sequence[str] = (),
    ) -> None:
        super().__init__(failure.summary)
        self.outcome = outcome
        self.failure = failure
        self.remedy = remedy
        self.problems = problems or []
        self.failed_checks = failed_checks

    @property
    def retryable(self) -> bool:
        """Whether the same request can bring a better reply."""
        return self.remedy in ("repair", "retry")


def judge(
    reply: Reply,
    model: type[BaseModel],
    checks: Sequence[Check],
    task_input: BaseModel,
    warnings: Sequence[Check] = (),
) -> Accepted:
    """The output that `reply` holds, after the model and every check have accepted it.

    Raises:
        Rejected: it was refused, cut off, does not fit the model, or fails a check.
    """
    try:
        reading = read_reply(reply, model)
    except Exception as error:  # a validator of the output model is the task author's code
        summary = f"{model.__qualname__} raised {type(error).__name__}"
        failure = Failure("check_error", summary, f"{summary}: {error}", reply.request_id)
        raise Rejected("invalid_output", failure, "none") from None
    match reading:
        case Valid(output):
            noted = []
        case Salvaged(output, how):
            noted = [{"check": "reply_format", "problem": how}]
        case _:
            raise _rejection(reading, model, reply)
    for check in checks:
        if wrong := _run(check, task_input, output, reply):
            summary = f"check {check.__name__} failed"
            failure = Failure("invalid_output", summary, f"{summary}: {wrong}", reply.request_id)
            problem = {"path": check.__name__, "problem": wrong}
            raise Rejected("invalid_output", failure, "repair", [problem], [check.__name__])
    for check in warnings:
        if wrong := _run(check, task_input, output, reply):
            noted.append({"check": check.__name__, "problem": wrong})
    return Accepted(output, noted)


def still_accepted(
    output: str, model: type[BaseModel], checks: Sequence[Check], task_input: BaseModel
) -> bool:
    """Whether the model and the checks, which may be newer, accept an output that was stored."""
    try:
        stored = model.model_validate_json(output)
        return not any(check(task_input, stored) for check in checks)
    except Exception:  # a validator or a check is the task author's code
        return False


def _run(check: Check, task_input: BaseModel, output: BaseModel, reply: Reply) -> str | None:
    try:
        return check(task_input, output)
    except Exception as error:  # a check is the task author's code
        summary = f"check {check.__name__} raised {type(error).__name__}"
        failure = Failure("check_error", summary, f"{summary}: {error}", reply.request_id)
        raise Rejected("invalid_output", failure, "none", failed_checks=[check.__name__]) from None


def _rejection(reading: Reading, model: type[BaseModel], reply: Reply) -> Rejected:
    request_id = reply.request_id
    match reading:
        case Refused(category):
            summary = f"Claude declined to answer ({category or 'no category given'})"
            return Rejected("refused", Failure("refused", summary, None, request_id), "fall_back")
        case Truncated(limit):
            summary = f"the reply was cut off ({limit})"
            remedy: Remedy = "enlarge" if limit == "max_tokens" else "none"
            return Rejected("truncated", Failure("truncated", summary, None, request_id), remedy)
        case Empty(stop_reason):
            summary = f"the reply was empty ({stop_reason})"
            failure = Failure("empty_reply", summary, None, request_id)
            return Rejected("invalid_output", failure, "retry")
        case Invalid(problems):
            summary = f"the reply does not fit {model.__qualname__} ({len(problems)} problems)"
            failure = Failure(
                "invalid_output", summary, in_words(problems), request_id, problems=problems
            )
            return Rejected("invalid_output", failure, "repair", problems)
        case Valid() | Salvaged():
            raise AssertionError("an output is not a rejection")
