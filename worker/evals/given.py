"""What a case brings to its run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: Asks Claude whether an output meets a rubric: (rubric, case, output) → (met, why).
Judge = Callable[[str, "Given", dict[str, Any]], Awaitable[tuple[bool, str]]]


class About(BaseModel):
    """The `metadata` of a case."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    live_only: bool = Field(False, description="None of its expectations is for recorded replies.")
    since: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)*$",
        description="The first prompt version that this is expected of.",
    )
    why: str = Field("", description="What the case is there for.")


@dataclass(frozen=True, slots=True)
class Given:
    """A case's input; `live` and `judge` say what the run can do."""

    case: str
    values: dict[str, Any]
    live: bool = False
    judge: Judge | None = None
