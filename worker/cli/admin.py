"""Setting up: the schema and the settings."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.markup import escape
from sqlalchemy import make_url

from worker.claude.price_overrides import load_overrides
from worker.cli.output import err, out, table
from worker.settings import Settings, get_settings, variable_name
from worker.storage import schema
from worker.storage.engine import transaction


def migrate(
    revision: Annotated[
        str, typer.Argument(help="A revision, `head`, or `base` to remove everything.")
    ] = "head",
) -> None:
    """Bring the database at DATABASE_URL to the newest schema, or to REVISION."""
    with transaction() as connection:
        before, after = schema.migrate(connection, revision)
    if before == after:
        err.print(f"nothing to do: the database is at {after or 'base'}")
    else:
        err.print(f"migrated from {before or 'base'} to {after or 'base'}")


def config() -> None:
    """List every setting: its variable, its value here, and what it does. Secrets are masked."""
    settings = get_settings()
    if settings.prices_file is not None:
        load_overrides(settings.prices_file)  # what is wrong in it should be said here, too
    listed = table("variable", "value~", "what it does~")
    # The inherited ones come first in `model_fields`; here, last.
    fields = sorted(Settings.model_fields.items(), key=lambda field: field[0].startswith("api_"))
    for name, field in fields:
        shown = escape(_masked(getattr(settings, name)))
        changed = getattr(settings, name) != field.default
        listed.add_row(
            variable_name(name), f"[bold]{shown}[/]" if changed else shown, field.description or ""
        )
    out.print(listed)


def _masked(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, str) and "://" in value:
        shown = make_url(value).render_as_string(hide_password=True)
        return re.sub(r"(?<=password=)[^&]*", "***", shown)
    return str(value)
