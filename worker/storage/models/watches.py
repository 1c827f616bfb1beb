"""What the watchdog remembers: each prompt version's last replies, and the releases it watches.

No contract: what a watch has found is in `alerts`, and what it did in `prompt_releases`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Count, Created, not_negative, one_of

WATCH_STATES = ("watching", "passed", "superseded", "rolled_back", "shared")


class RecentRepliesRow(Base):
    """A version's newest first replies, the oldest first: four arrays of the same length."""

    __tablename__ = "recent_replies"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    prompt_version: Mapped[str] = mapped_column(primary_key=True)
    prompt_sha256: Mapped[str] = mapped_column(primary_key=True)
    outcomes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    tokens: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    costs: Mapped[list[int | None]] = mapped_column(ARRAY(BigInteger))
    users: Mapped[list[int | None]] = mapped_column(ARRAY(BigInteger))
    seen_at: Mapped[Created]


class ReleaseWatchRow(Base):
    """How a release does against what it replaced; see `worker.engine.watchdog`.

    `baseline` is written once; `progress` is what changes from look to look.
    """

    __tablename__ = "release_watches"

    release_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("prompt_releases.id"), primary_key=True, autoincrement=False
    )
    prompt: Mapped[str]
    state: Mapped[str]
    versions: Mapped[dict[str, Any]]
    baseline: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    calls: Mapped[Count]
    started_at: Mapped[Created]
    looked_at: Mapped[Created]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("state", WATCH_STATES),
        not_negative("calls"),
        CheckConstraint("(state = 'watching') = (ended_at IS NULL)", name="ended_is_dated"),
        Index(
            "release_watches_watching", "release_id", postgresql_where=text("state = 'watching'")
        ),
    )
