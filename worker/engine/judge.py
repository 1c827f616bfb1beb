"""From a reply's text to a validated output – or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from worker.claude.reply import Reply
from worker.engine.checks import in_words, problems_of, unstorable
from worker.errors import Failure


class Rejected(Exception):
    """A reply that must not become a result."""

    def __init__(self, outcome: str, failure: Failure, *, retryable: bool) -> None:
        super().__init__(failure.summary)
        self.outcome = outcome
        self.failure = failure
        self.retryable = retryable


def judge(
    reply: Reply,
    model: type[BaseModel],
    checks: Sequence[Callable[[Any, Any], str | None]],
    task_input: BaseModel,
) -> BaseModel:
    """The output that `reply` holds, after the model and every check have accepted it.

    Raises:
        Rejected: it was refused, cut off, does not fit the model, or fails a check.
    """
    if reply.stop_reason == "refusal":
        raise _rejected("refused", "refused", "Claude declined to answer", reply, retryable=False)
    if reply.stop_reason in ("max_tokens", "model_context_window_exceeded"):
        summary = f"the reply was cut off ({reply.stop_reason})"
        raise _rejected("truncated", "truncated", summary, reply, retryable=False)
    output = _parse(reply, model)
    if problem := unstorable(output.model_dump()):
        raise _invalid(reply, "the output holds text that cannot be stored", problem)
    for check in checks:
        if wrong := check(task_input, output):
            raise _invalid(reply, f"check {check.__name__} failed", wrong)
    return output


def _parse(reply: Reply, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate_json(reply.text)
    except ValidationError as error:
        problems = problems_of(error)
        failure = Failure(
            type="invalid_output",
            summary=f"the reply does not fit {model.__qualname__} ({len(problems)} problems)",
            message=in_words(problems),
            request_id=reply.request_id,
            problems=problems[:50],
        )
        raise Rejected("invalid_output", failure, retryable=True) from None


def _invalid(reply: Reply, summary: str, message: str) -> Rejected:
    failure = Failure("invalid_output", summary, f"{summary}: {message}", reply.request_id)
    return Rejected("invalid_output", failure, retryable=True)


def _rejected(outcome: str, kind: str, summary: str, reply: Reply, *, retryable: bool) -> Rejected:
    return Rejected(outcome, Failure(kind, summary, None, reply.request_id), retryable=retryable)
