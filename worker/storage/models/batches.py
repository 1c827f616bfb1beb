"""Message Batches, from the intent to their results."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, Index, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Count, Created, Flag, not_negative, one_of

BATCH_STATES = ("intent", "submitted", "ended", "ingested", "failed")


class BatchRow(Base):
    """One Message Batch. Its members are the usage rows with its id; see docs/batches.md."""

    __tablename__ = "batches"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    model: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'intent'"))
    anthropic_id: Mapped[str | None]
    requests: Mapped[Count]
    bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[Created]
    sent_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    ingested_at: Mapped[datetime | None]
    succeeded: Mapped[Count]
    errored: Mapped[Count]
    canceled: Mapped[Count]
    expired: Mapped[Count]
    cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    full_cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    #: When somebody looks after it next: while somebody does, when their lease runs out.
    look_at: Mapped[Created]
    keeper: Mapped[UUID | None]
    failures: Mapped[Count]
    cancel_requested: Mapped[Flag]
    reported: Mapped[Flag]
    error: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("anthropic_id", name="batches_anthropic_id_key"),
        one_of("state", BATCH_STATES),
        not_negative(
            "requests", "bytes", "succeeded", "errored", "canceled", "expired", "failures"
        ),
        Index(
            "batches_open",
            "look_at",
            postgresql_where=text("state IN ('intent', 'submitted', 'ended')"),
        ),
        Index("batches_by_time", "created_at"),
    )
