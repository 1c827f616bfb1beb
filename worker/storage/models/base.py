"""What all tables share: column types, names of constraints, checks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import CheckConstraint, DateTime, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

Count = Annotated[int, mapped_column(server_default=text("0"))]
Flag = Annotated[bool, mapped_column(server_default=text("false"))]
Created = Annotated[datetime, mapped_column(server_default=text("now()"))]


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A column that holds one of `values`."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def not_negative(*columns: str) -> CheckConstraint:
    """Columns, or expressions, that are never below 0."""
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="counts_not_negative")


class Base(DeclarativeBase):
    """Types and constraint names shared by all tables."""

    type_annotation_map = {  # noqa: RUF012 – SQLAlchemy's own convention
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, str]]: JSONB,
    }
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s",
        }
    )
