"""What the commands print with: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from worker.storage.engine import transaction
from worker.storage.schema import require_head

# A pipe has no width: whoever reads it gets whole lines.
out = Console(
    highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240
)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

STATE_STYLES = {
    "queued": "cyan",
    "dispatched": "cyan",
    "running": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def check_database() -> None:
    """Stop with one line unless the database can be reached and has the newest schema."""
    with transaction() as connection:
        require_head(connection)


def styled_state(state: str) -> str:
    """A state in its colour, as rich markup."""
    return f"[{STATE_STYLES.get(state, 'white')}]{state}[/]"


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; a name ending in `>` is aligned right, one ending in `~` holds long text."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        if column.endswith(">"):
            made.add_column(column[:-1], justify="right", no_wrap=True)
        elif column.endswith("~"):
            made.add_column(column[:-1], overflow="fold")
        else:
            made.add_column(column, no_wrap=True)
    return made


def as_json(value: Any) -> str:
    """JSON for people and for `jq`: times in ISO 8601, money as text so that no digit is lost."""
    return json.dumps(value, default=_plain, ensure_ascii=False, indent=2)


def _plain(value: Any) -> Any:
    match value:
        case date():
            return value.isoformat()
        case UUID():
            return str(value)
        case Decimal():
            return f"{value:f}"
        case Mapping():
            return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def money(value: Decimal | None) -> str:
    """Dollars with as many places as matter for one call; `-` when unknown."""
    return "-" if value is None else f"${value:.4f}"


def when(value: datetime | None) -> str:
    """A time in the reader's zone, to the second."""
    return "-" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
