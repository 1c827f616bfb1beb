"""What people should know, and what is remembered to find it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Count, Created, not_negative


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
        not_negative("count", "delivery_attempts"),
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

    __table_args__ = (not_negative("calls"),)
