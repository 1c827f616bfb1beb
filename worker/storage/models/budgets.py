"""Spending budgets, what was spent of them, and what is promised to calls in flight."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from worker.storage.models.base import Base, Created, one_of
from worker.storage.models.jobs import LANES

BUDGET_SCOPES = ("all", "task", "user", "model")
PERIODS = ("day", "month")

_DOLLARS = Numeric(18, 8)


class BudgetRow(Base):
    """How many dollars calls may cost in a day or a month; `hard` holds jobs, else it only tells.

    `name` '*': each task, user or model on its own. `lane` NULL: both. `counted_at` is NULL until
    a worker has counted what was in flight when the budget was set.
    """

    __tablename__ = "budgets"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    scope: Mapped[str]
    name: Mapped[str] = mapped_column(server_default=text("''"))
    period: Mapped[str]
    lane: Mapped[str | None]
    amount_usd: Mapped[Decimal] = mapped_column(_DOLLARS)
    hard: Mapped[bool]
    alert_at: Mapped[list[int]] = mapped_column(
        ARRAY(SmallInteger), server_default=text("'{80,100}'")
    )
    created_at: Mapped[Created]
    changed_at: Mapped[Created]
    changed_by: Mapped[str]
    counted_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("scope", BUDGET_SCOPES),
        one_of("period", PERIODS),
        one_of("lane", LANES),
        CheckConstraint("(scope = 'all') = (name = '')", name="only_all_is_nameless"),
        CheckConstraint("amount_usd >= 0 AND amount_usd < 10000000000", name="amount_is_dollars"),
        Index(
            "budgets_once",
            "scope",
            "name",
            "period",
            "lane",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )


class BudgetWindowRow(Base):
    """One day or month of a budget, for one `subject`: a task, user or model, or '' for all.

    `needed_usd`: what the dearest refused call needed; until there is room for it the relay sends
    no jobs. `alerted`: percentages that were told; `exhausted_at`: when people were told that jobs
    are held.
    """

    __tablename__ = "budget_windows"

    budget_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True
    )
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    ends_at: Mapped[datetime]
    spent_usd: Mapped[Decimal] = mapped_column(_DOLLARS, server_default=text("0"))
    reserved_usd: Mapped[Decimal] = mapped_column(_DOLLARS, server_default=text("0"))
    calls: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    needed_usd: Mapped[Decimal | None] = mapped_column(_DOLLARS)
    alerted: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger), server_default=text("'{}'"))
    exhausted_at: Mapped[datetime | None]

    # Half of each page is kept free: the sums change with every call, and no index has to follow.
    __table_args__ = (
        Index("budget_windows_by_end", "ends_at"),
        Index(
            "budget_windows_short",
            "budget_id",
            "starts_at",
            postgresql_where=text("needed_usd IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class BudgetReservationRow(Base):
    """What a call in flight is expected to cost, in one window of one budget; gone once booked.

    `usd` NULL: nothing was reserved, as the budget was set after the call was sent.
    """

    __tablename__ = "budget_reservations"

    usage_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    budget_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    subject: Mapped[str]
    starts_at: Mapped[datetime]
    usd: Mapped[Decimal | None] = mapped_column(_DOLLARS)
