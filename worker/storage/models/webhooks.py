"""What is posted when jobs have ended."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Count, Created, not_negative


class WebhookDeliveryRow(Base):
    """A job's end on its way to its webhook; a trigger writes it with whatever ends the job.

    It holds all that is posted but the output, and outlives its job. `next_attempt_at` is NULL once
    it was delivered, or given up.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    job_id: Mapped[UUID]
    service: Mapped[str | None]
    task: Mapped[str]
    state: Mapped[str]
    finished_at: Mapped[datetime]
    url: Mapped[str]
    host: Mapped[str]
    created_at: Mapped[Created]
    attempts: Mapped[Count]
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=text("now()"))
    give_up_at: Mapped[datetime] = mapped_column(
        server_default=text("(now() + '24:00:00'::interval)")
    )
    delivered_at: Mapped[datetime | None]
    status: Mapped[int | None]
    error: Mapped[str | None]

    __table_args__ = (
        not_negative("attempts"),
        Index(
            "webhook_deliveries_in_turns",
            text("coalesce(service, '')"),
            "host",
            "next_attempt_at",
            postgresql_where=text("next_attempt_at IS NOT NULL"),
        ),
        Index(
            "webhook_deliveries_to_give_up",
            "give_up_at",
            postgresql_where=text("next_attempt_at IS NOT NULL"),
        ),
        Index("webhook_deliveries_by_job", "job_id"),
        Index("webhook_deliveries_by_time", "created_at"),
    )
