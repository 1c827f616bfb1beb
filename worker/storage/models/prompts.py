"""Prompt versions, which of them serve, and what was said to Claude beyond the prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created, Flag, one_of

RELEASE_KINDS = ("release", "rollback", "automatic_rollback")


class PromptVersionRow(Base):
    """The content of a prompt version; a version that is still being written has several."""

    __tablename__ = "prompt_versions"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]
    first_seen_at: Mapped[Created]


class OutputSchemaRow(Base):
    """The schema of a task's output, in the very characters that stand in system prompts."""

    __tablename__ = "output_schemas"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    schema: Mapped[str]
    first_seen_at: Mapped[Created]


class PromptReleaseRow(Base):
    """Which versions of a prompt serve from `created_at` on; the highest id counts.

    The table only grows, and ids are in the order of commits: triggers see to both.
    """

    __tablename__ = "prompt_releases"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    prompt: Mapped[str]
    kind: Mapped[str]
    weights: Mapped[dict[str, Any]]
    sha256: Mapped[dict[str, Any]]
    allocation: Mapped[list[Any]] = mapped_column(JSONB)
    restores: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("prompt_releases.id"))
    released_by: Mapped[str]
    reason: Mapped[str]
    forced: Mapped[Flag]
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        one_of("kind", RELEASE_KINDS),
        CheckConstraint("NOT forced OR reason <> ''", name="forced_has_reason"),
        CheckConstraint("jsonb_array_length(allocation) > 0", name="somebody_serves"),
        Index("prompt_releases_newest", "prompt", "id"),
    )


class FollowUpRow(Base):
    """What a call said that is not in its prompt: a repair's texts, more room, another model.

    `correction` holds the output that is to be corrected and what is wrong with it; json and not
    jsonb, since a reply may hold a NUL.
    """

    __tablename__ = "follow_ups"

    usage_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("usage.id", ondelete="CASCADE"), primary_key=True
    )
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    model: Mapped[str]
    max_tokens: Mapped[int]
    correction: Mapped[dict[str, str] | None] = mapped_column(JSON)

    __table_args__ = (Index("follow_ups_by_job", "job_id"),)
