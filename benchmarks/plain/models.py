"""The peer's two tables, made by `create_all` beside those of the project."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The peer's own metadata: its tables are none of Alembic's business."""


class Result(Base):
    """A validated output."""

    __tablename__ = "plain_results"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    prompt_version: Mapped[str]
    output: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Usage(Base):
    """What a reply used."""

    __tablename__ = "plain_usage"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    user_id: Mapped[str]
    model: Mapped[str]
    prompt_version: Mapped[str]
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    latency_ms: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
