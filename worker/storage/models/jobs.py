"""Jobs, their results, and the calls that were made for them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Count, Created, Flag, not_negative, one_of

STATES = ("queued", "dispatched", "running", "succeeded", "failed", "cancelled")
TERMINAL_STATES = ("succeeded", "failed", "cancelled")
LANES = ("interactive", "batch")
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
    service: Mapped[str | None]
    webhook_url: Mapped[str | None]
    cache: Mapped[bool] = mapped_column(server_default=text("true"))
    waits_for: Mapped[str | None]

    __table_args__ = (
        one_of("state", STATES),
        one_of("lane", LANES),
        not_negative("priority", "attempt", "rescues"),
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
            postgresql_where=text(
                "state = 'queued' AND lane = 'interactive' AND waits_for IS NULL"
            ),
        ),
        Index(
            "jobs_due_by_user",
            "task",
            text("coalesce(model, '')"),
            "priority",
            text("coalesce(user_id, '')"),
            "run_at",
            postgresql_where=text(
                "state = 'queued' AND lane = 'interactive' AND waits_for IS NULL"
            ),
        ),
        Index(
            "jobs_waiting",
            "waits_for",
            "priority",
            "run_at",
            postgresql_where=text("state = 'queued' AND waits_for IS NOT NULL"),
        ),
        Index(
            "jobs_waiting_in_lane",
            "deadline_at",
            postgresql_where=text("state = 'queued' AND lane = 'batch' AND waits_for IS NOT NULL"),
        ),
        Index("jobs_dispatched", "dispatched_at", postgresql_where=text("state = 'dispatched'")),
        Index(
            "jobs_leased",
            "lease_expires_at",
            postgresql_where=text("state = 'running' AND lane = 'interactive'"),
        ),
        # The batch lane, which no worker's loop but its own reads.
        Index(
            "jobs_to_gather",
            "task",
            text("coalesce(model, '')"),
            "run_at",
            postgresql_where=text("state = 'queued' AND lane = 'batch' AND waits_for IS NULL"),
        ),
        Index(
            "jobs_in_batches",
            "worker",
            postgresql_where=text("state = 'running' AND lane = 'batch'"),
        ),
        Index(
            "jobs_idempotency_by_service",
            "task",
            "idempotency_key",
            "service",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("jobs_created", "created_at"),
        # A service's jobs, the newest first.
        Index(
            "jobs_by_service",
            "service",
            "created_at",
            "id",
            postgresql_where=text("service IS NOT NULL"),
        ),
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
    prompt_sha256: Mapped[str | None]
    variant: Mapped[str | None]
    service: Mapped[str | None]
    request_sha256: Mapped[str | None]
    source_job_id: Mapped[UUID | None]

    __table_args__ = (
        one_of("source", SOURCES),
        # What may be served again; copies have no such hash.
        Index(
            "results_by_request",
            "request_sha256",
            "created_at",
            postgresql_where=text("request_sha256 IS NOT NULL"),
        ),
        Index("results_by_task", "task", "created_at"),
        Index(
            "results_by_user", "user_id", "created_at", postgresql_where=text("user_id IS NOT NULL")
        ),
        Index(
            "results_by_service",
            "service",
            "created_at",
            postgresql_where=text("service IS NOT NULL"),
        ),
    )


class RequestLeaderRow(Base):
    """Which job makes a request that others wait for; see docs/caching.md.

    `claim_token` NULL: it was chosen to, and has not been claimed yet. `followed`: somebody waits.
    """

    __tablename__ = "request_leaders"

    request_sha256: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[UUID]
    claim_token: Mapped[UUID | None]
    followed: Mapped[Flag]
    created_at: Mapped[Created]

    __table_args__ = (
        Index("request_leaders_by_job", "job_id"),
        {"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 50, "vacuum_truncate": False}},
    )


class UsageRow(Base):
    """One HTTP request to Claude: written before it is sent, completed when its reply is known.

    It outlives its job: pruning a job leaves the row, with `job_id` NULL. So it says itself whose
    it is.
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
    variant: Mapped[str | None]
    schema_sha256: Mapped[str | None]
    failed_checks: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    service: Mapped[str | None]
    source: Mapped[str] = mapped_column(server_default=text("'api'"))
    source_job_id: Mapped[UUID | None]
    full_cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    coalesced: Mapped[Flag]
    assumed_cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    batch_id: Mapped[UUID | None]

    __table_args__ = (
        one_of("outcome", OUTCOMES),
        one_of("source", SOURCES),
        not_negative(
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
        # For the views: rows come in the order of their days.
        Index(
            "usage_by_day",
            text("cast(created_at AT TIME ZONE 'UTC' AS date)"),
            postgresql_using="brin",
            postgresql_with={"autosummarize": "true"},
        ),
        Index(
            "usage_by_service",
            "service",
            "created_at",
            postgresql_where=text("service IS NOT NULL"),
        ),
        Index("usage_by_batch", "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
        Index("usage_in_flight", "job_id", postgresql_where=text("outcome = 'in_flight'")),
        # What the alerts' loop has not looked at yet: empty most of the time.
        Index(
            "usage_uninspected",
            "id",
            postgresql_where=text("finished_at IS NOT NULL AND NOT inspected"),
        ),
    )
