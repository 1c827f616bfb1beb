"""What somebody who follows a job is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of Claude's text, as it is: it may have a fence or prose around its JSON.

    `id` is where to go on after a lost connection.
    """

    id: str
    text: str
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class Partial:
    """The JSON so far; not validated, and anything in it may still grow or change."""

    output: dict[str, Any]
    kind: Literal["partial"] = "partial"


@dataclass(frozen=True, slots=True)
class Retrying:
    """What was written so far will not become the result: clear it. `reason` quotes nothing."""

    id: str
    attempt: int
    reason: str
    kind: Literal["retrying"] = "retrying"


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """The job has succeeded; `output` is what was validated and committed. Nothing follows."""

    output: T
    kind: Literal["result"] = "result"


@dataclass(frozen=True, slots=True)
class Error:
    """The job has `failed` or was `cancelled`; `error` is `jobs.error`. Nothing follows."""

    state: Literal["failed", "cancelled"]
    error: dict[str, Any]
    kind: Literal["error"] = "error"


#: `JobEvent[Output]` is what `Job.stream` gives; on the way there, the output is plain JSON.
JobEvent = Delta | Partial | Retrying | Result[T] | Error
