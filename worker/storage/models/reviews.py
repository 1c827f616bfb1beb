"""Reviews of prompt versions by people: what they were shown, and what they said."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created, Flag, one_of

VERDICTS = ("better", "same", "worse", "unacceptable", "acceptable")
SAMPLE_SOURCES = ("sample", "file", "job")


class PromptReviewRow(Base):
    """People compare a prompt version's outputs with those of a baseline, or judge them alone.

    There is one review of two contents, whatever their version numbers are.
    """

    __tablename__ = "prompt_reviews"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    task: Mapped[str]
    prompt: Mapped[str]
    version: Mapped[str]
    prompt_sha256: Mapped[str]
    baseline_version: Mapped[str | None]
    baseline_sha256: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[Created]

    __table_args__ = (
        CheckConstraint(
            "(baseline_version IS NULL) = (baseline_sha256 IS NULL)", name="baseline_whole"
        ),
        Index(
            "prompt_reviews_of_content",
            "prompt",
            "prompt_sha256",
            "task",
            text("coalesce(baseline_sha256, '')"),
            unique=True,
        ),
    )


class PromptReviewSampleRow(Base):
    """An input, and what became of it: kept here, so that pruning the jobs loses no review.

    `candidate` and `baseline` are NULL until the job has ended.
    """

    __tablename__ = "prompt_review_samples"

    review: Mapped[UUID] = mapped_column(
        ForeignKey("prompt_reviews.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str]
    input: Mapped[dict[str, Any]]
    input_sha256: Mapped[str]
    candidate_left: Mapped[bool]
    candidate_job: Mapped[UUID | None]
    baseline_job: Mapped[UUID | None]
    candidate: Mapped[dict[str, Any] | None]
    baseline: Mapped[dict[str, Any] | None]

    __table_args__ = (
        CheckConstraint("number > 0", name="number_positive"),
        one_of("source", SAMPLE_SOURCES),
        Index("prompt_review_samples_once", "review", "input_sha256", unique=True),
    )


class PromptVerdictRow(Base):
    """What a reviewer said of a sample; the newest of a reviewer counts, the others are history.

    `blind`: the reviewer had not been told yet which side was which.
    """

    __tablename__ = "prompt_verdicts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    review: Mapped[UUID]
    sample: Mapped[int]
    reviewer: Mapped[str]
    verdict: Mapped[str]
    baseline_unacceptable: Mapped[Flag]
    blind: Mapped[bool]
    note: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[Created]

    __table_args__ = (
        ForeignKeyConstraint(
            ["review", "sample"],
            ["prompt_review_samples.review", "prompt_review_samples.number"],
            ondelete="CASCADE",
            name="prompt_verdicts_sample_fkey",
        ),
        one_of("verdict", VERDICTS),
        Index("prompt_verdicts_latest", "review", "sample", "reviewer", "id"),
    )
