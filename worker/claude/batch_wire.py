"""Batches and their results as the API writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic_core import from_json, to_json

from worker.claude.failures import CallFailed, classify
from worker.claude.incoming import ErrorEvent
from worker.claude.reply import Count, Name


class Wire(BaseModel):
    """Unknown keys are the API's right to add; a wrong type is an error."""

    model_config = ConfigDict(extra="ignore")


class Counts(Wire):
    """How many requests of a batch have ended how; all of them only once the batch has ended."""

    processing: Count = 0
    succeeded: Count = 0
    errored: Count = 0
    canceled: Count = 0
    expired: Count = 0

    def total(self) -> int:
        """All requests of the batch."""
        return self.processing + self.ended()

    def ended(self) -> int:
        """Those that are not processed any more."""
        return self.succeeded + self.errored + self.canceled + self.expired


class RemoteBatch(Wire):
    """A batch as the API shows it. Its results are gone once it is archived."""

    id: Name
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: Counts
    created_at: AwareDatetime
    expires_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    archived_at: AwareDatetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.processing_status == "ended"


class _Error(Wire):
    type: Name = "api_error"
    message: str = ""


class _ErrorResponse(Wire):
    error: _Error
    request_id: Name | None = None


class _Result(Wire):
    type: Literal["succeeded", "errored", "canceled", "expired"]
    message: dict[str, Any] | None = None
    error: _ErrorResponse | None = None


class _Line(Wire):
    custom_id: str
    result: _Result


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request: `message` is the body of its reply, `failed` why there is none.

    `failed` is None as well for a request that was canceled or has expired.
    """

    custom_id: str
    kind: Literal["succeeded", "errored", "canceled", "expired"]
    message: bytes | None = None
    failed: CallFailed | None = None


def parse_line(line: bytes) -> BatchResult:
    """The result that a line of a batch's results holds.

    Raises:
        ValueError: it holds none.
    """
    parsed = _Line.model_validate(from_json(line))
    result = parsed.result
    match result.type:
        case "succeeded":
            if result.message is None:
                raise ValueError("succeeded, without a message")
            return BatchResult(parsed.custom_id, "succeeded", to_json(result.message))
        case "errored":
            return BatchResult(parsed.custom_id, "errored", failed=_failed(result.error))
        case kind:
            return BatchResult(parsed.custom_id, kind)


def _failed(response: _ErrorResponse | None) -> CallFailed:
    """What the error of a request is, as it would be had it come in a stream."""
    if response is None:
        response = _ErrorResponse(error=_Error(message="the batch gives no reason"))
    headers = {} if response.request_id is None else {"request-id": response.request_id}
    event = ErrorEvent(response.error.type, response.error.message, headers)
    failed = classify(event)
    failure = replace(failed.failure, summary=f"{response.error.type} in a batch", status=None)
    return CallFailed(failed.outcome, failure, failed.facts)
