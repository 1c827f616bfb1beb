"""The tables that other services read. A column is added, never renamed.

All times are `timestamptz`. States, lanes and outcomes are text with a CHECK, so that a new value
is one migration and SQL from anywhere stays readable.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

STATES = ("queued", "dispatched", "running", "succeeded", "failed", "cancelled")
TERMINAL_STATES = ("succeeded", "failed", "cancelled")
LANES = ("interactive", "batch")
PAUSE_SCOPES = ("all", "task", "model")
SOURCES = ("api", "cache", "batch")
OUTCOMES = (
    "in_flight",
    "ok",
    "invalid_output",
    "truncated",
    "refused",
    "rate_limited",
    "overloaded",
    "timeout",
    "connection_error",
    "api_error",
    "interrupted",
    "lost",
)

Count = Annotated[int, mapped_column(server_default=text("0"))]
Flag = Annotated[bool, mapped_column(server_default=text("false"))]
Created = Annotated[datetime, mapped_column(server_default=text("now()"))]


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _not_negative(*columns: str) -> CheckConstraint:
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="counts_not_negative")


class Base(DeclarativeBase):
    """Types and constraint names shared by all tables."""

    type_annotation_map = {  # noqa: RUF012 – SQLAlchemy's own convention
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, str]]: JSONB,
    }
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s",
        }
    )


class JobRow(Base):
    """One request for one task, from INSERT to its terminal state."""

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    task: Mapped[str]
    input: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    lane: Mapped[str] = mapped_column(server_default=text("'interactive'"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("100"))
    user_id: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    prompt_version: Mapped[str | None]
    model: Mapped[str | None]
    attempt: Mapped[Count]
    max_attempts: Mapped[int] = mapped_column(server_default=text("5"))
    rescues: Mapped[Count]
    run_at: Mapped[Created]
    dispatched_at: Mapped[datetime | None]
    claim_token: Mapped[UUID | None]
    worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[Flag]
    stream: Mapped[Flag]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]

    __table_args__ = (
        _one_of("state", STATES),
        _one_of("lane", LANES),
        _not_negative("priority", "attempt", "rescues"),
        CheckConstraint("max_attempts > 0", name="max_attempts_positive"),
        CheckConstraint(
            "state <> 'running' OR (claim_token IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="running_is_leased",
        ),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="finished_is_dated",
        ),
        # Each loop of the engine reads one of these; none of them grows with finished jobs.
        Index(
            "jobs_due_by_group",
            "task",
            text("coalesce(model, '')"),
            "priority",
            "run_at",
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "jobs_due_by_user",
            "task",
            text("coalesce(model, '')"),
            "priority",
            text("coalesce(user_id, '')"),
            "run_at",
            postgresql_where=text("state = 'queued'"),
        ),
        Index("jobs_dispatched", "dispatched_at", postgresql_where=text("state = 'dispatched'")),
        Index("jobs_leased", "lease_expires_at", postgresql_where=text("state = 'running'")),
        Index(
            "jobs_idempotency",
            "task",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("jobs_created", "created_at"),
        Index(
            "jobs_cancelling",
            "worker",
            postgresql_where=text("state = 'running' AND cancel_requested"),
        ),
        Index(
            "jobs_finished",
            "state",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
    )


class ResultRow(Base):
    """The validated output of a job that succeeded."""

    __tablename__ = "results"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    task: Mapped[str]
    user_id: Mapped[str | None]
    output: Mapped[dict[str, Any]]
    prompt: Mapped[str]
    prompt_version: Mapped[str]
    model: Mapped[str]
    source: Mapped[str] = mapped_column(server_default=text("'api'"))
    created_at: Mapped[Created]
    warnings: Mapped[list[dict[str, str]]] = mapped_column(server_default=text("'[]'"))

    __table_args__ = (
        _one_of("source", SOURCES),
        Index("results_by_task", "task", "created_at"),
        Index(
            "results_by_user", "user_id", "created_at", postgresql_where=text("user_id IS NOT NULL")
        ),
    )


class UsageRow(Base):
    """One HTTP request to Claude: written before it is sent, completed when its reply is known.

    It outlives its job: pruning a job leaves the row, with `job_id` NULL.
    """

    __tablename__ = "usage"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    task: Mapped[str]
    user_id: Mapped[str | None]
    attempt: Mapped[int]
    call: Mapped[int]
    outcome: Mapped[str] = mapped_column(server_default=text("'in_flight'"))
    request_id: Mapped[str | None]
    model: Mapped[str]
    prompt: Mapped[str]
    prompt_version: Mapped[str]
    prompt_sha256: Mapped[str]
    input_tokens: Mapped[Count]
    cache_read_tokens: Mapped[Count]
    cache_write_5m_tokens: Mapped[Count]
    cache_write_1h_tokens: Mapped[Count]
    output_tokens: Mapped[Count]
    thinking_tokens: Mapped[Count]
    cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    price_version: Mapped[str | None]
    stop_reason: Mapped[str | None]
    service_tier: Mapped[str | None]
    latency_ms: Mapped[int | None]
    first_token_ms: Mapped[int | None]
    complete: Mapped[Flag]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
    inspected: Mapped[Flag]

    __table_args__ = (
        _one_of("outcome", OUTCOMES),
        _not_negative(
            "attempt",
            "call",
            "input_tokens",
            "cache_read_tokens",
            "cache_write_5m_tokens",
            "cache_write_1h_tokens",
            "output_tokens",
            "thinking_tokens",
            "coalesce(cost_usd, 0)",
            "coalesce(latency_ms, 0)",
            "coalesce(first_token_ms, 0)",
        ),
        Index("usage_by_job", "job_id"),
        Index("usage_by_time", "created_at"),
        Index("usage_in_flight", "job_id", postgresql_where=text("outcome = 'in_flight'")),
        # What the alerts' loop has not looked at yet: empty most of the time.
        Index(
            "usage_uninspected",
            "id",
            postgresql_where=text("finished_at IS NOT NULL AND NOT inspected"),
        ),
    )


class PauseRow(Base):
    """What is not to be run until somebody resumes it: a task, a model, or everything."""

    __tablename__ = "pauses"

    scope: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    paused_by: Mapped[str]
    created_at: Mapped[Created]

    __table_args__ = (_one_of("scope", PAUSE_SCOPES),)


class WorkerRow(Base):
    """A worker process, as it last reported itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    slots: Mapped[int]
    running: Mapped[int]
    started_at: Mapped[Created]
    seen_at: Mapped[Created]
    last_claim_at: Mapped[datetime | None]

    __table_args__ = (_not_negative("slots", "running"),)


class AlertRow(Base):
    """Something that a person should know; more of the same within the hour is counted here.

    `next_delivery_at` is NULL once the alert was posted to the webhook, or given up.
    """

    __tablename__ = "alerts"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    kind: Mapped[str]
    subject: Mapped[str]
    message: Mapped[str]
    details: Mapped[dict[str, Any]]
    count: Mapped[int] = mapped_column(server_default=text("1"))
    first_at: Mapped[Created]
    last_at: Mapped[Created]
    collecting: Mapped[bool] = mapped_column(server_default=text("true"))
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    delivered_at: Mapped[datetime | None]
    delivery_attempts: Mapped[Count]
    delivery_error: Mapped[str | None]
    next_delivery_at: Mapped[datetime | None] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        _not_negative("count", "delivery_attempts"),
        # Two that raise the same alert at once: one inserts it, the other one counts.
        Index(
            "alerts_collecting",
            "kind",
            "subject",
            unique=True,
            postgresql_where=text("collecting"),
        ),
        Index(
            "alerts_undelivered",
            "next_delivery_at",
            postgresql_where=text("next_delivery_at IS NOT NULL"),
        ),
        Index("alerts_by_time", "last_at"),
    )


class ReplyLengthsRow(Base):
    """The output tokens of a prompt version's calls, as far as `worker.engine.drift` needs them."""

    __tablename__ = "reply_lengths"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    prompt_version: Mapped[str] = mapped_column(primary_key=True)
    reference: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    recent: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    calls: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[Created]

    __table_args__ = (_not_negative("calls"),)
