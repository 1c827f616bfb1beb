"""What producers outside of Python go by: the tasks there are, and the keys of their services."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, Double, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created

SCOPES = ("enqueue", "read", "cancel")


class TaskRow(Base):
    """A task as the process that started last has it, for producers that cannot import it."""

    __tablename__ = "tasks"

    name: Mapped[str] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    input_schema: Mapped[dict[str, Any]]
    output_schema: Mapped[dict[str, Any]]
    max_attempts: Mapped[int]
    max_input_bytes: Mapped[int]
    webhook_url: Mapped[str | None]
    seen_at: Mapped[Created]
    batch_deadline_hours: Mapped[float] = mapped_column(Double, server_default=text("26"))

    __table_args__ = (
        CheckConstraint("max_attempts > 0 AND max_input_bytes > 0", name="bounds_positive"),
    )


class ApiKeyRow(Base):
    """A service's key to the HTTP gateway; the key itself is stored nowhere."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    service: Mapped[str]
    name: Mapped[str] = mapped_column(server_default=text("''"))
    prefix: Mapped[str]
    sha256: Mapped[bytes]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    requests_per_minute: Mapped[int | None]
    created_by: Mapped[str]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("sha256", name="api_keys_sha256_key"),
        CheckConstraint("octet_length(sha256) = 32", name="sha256_whole"),
        CheckConstraint(
            "cardinality(scopes) > 0 AND scopes <@ ARRAY['enqueue', 'read', 'cancel']",
            name="scopes_known",
        ),
        CheckConstraint("requests_per_minute > 0", name="rate_positive"),
    )
