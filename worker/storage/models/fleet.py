"""The workers, and what they must not run."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created, not_negative, one_of

PAUSE_SCOPES = ("all", "task", "model")


class PauseRow(Base):
    """What is not to be run until somebody resumes it: a task, a model, or everything."""

    __tablename__ = "pauses"

    scope: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    paused_by: Mapped[str]
    created_at: Mapped[Created]

    __table_args__ = (one_of("scope", PAUSE_SCOPES),)


class WorkerRow(Base):
    """A worker process, as it last reported itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    slots: Mapped[int]
    running: Mapped[int]
    started_at: Mapped[Created]
    seen_at: Mapped[Created]
    last_claim_at: Mapped[datetime | None]

    __table_args__ = (not_negative("slots", "running"),)
