"""What runs of prompts' cases found."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created, not_negative, one_of

TEST_MODES = ("recorded", "live")


class PromptTestRunRow(Base):
    """A run that was finished; `failures` are cases, `skipped` are expectations."""

    __tablename__ = "prompt_test_runs"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    prompt: Mapped[str]
    version: Mapped[str]
    prompt_sha256: Mapped[str]
    mode: Mapped[str]
    passed: Mapped[bool]
    cases: Mapped[int]
    failures: Mapped[int]
    skipped: Mapped[int]
    cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    cases_sha256: Mapped[str]
    report: Mapped[dict[str, Any]]
    run_by: Mapped[str]
    created_at: Mapped[Created]

    __table_args__ = (
        one_of("mode", TEST_MODES),
        not_negative("cases", "failures", "skipped", "coalesce(cost_usd, 0)"),
        CheckConstraint("NOT passed OR failures = 0", name="passed_without_failures"),
        Index("prompt_test_runs_newest", "prompt", "prompt_sha256", "created_at"),
    )
