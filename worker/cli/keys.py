"""Keys to the HTTP gateway: one or more a service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.cli.inspect import parse_id
from worker.cli.operate import parse_age, person
from worker.cli.output import as_json, check_database, err, out, table, when
from worker.errors import InvalidInput
from worker.storage import api_keys
from worker.storage.engine import transaction
from worker.storage.models.services import SCOPES

keys = typer.Typer(help="Keys to the HTTP gateway: create, list, revoke.", no_args_is_help=True)


@keys.command("create")
def create(
    service: Annotated[str, typer.Argument(help="Whose key: it sees this service's jobs only.")],
    name: Annotated[str, typer.Option(help="What tells it from the service's other keys.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}. Several; all unless given."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="How often it may be used.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After 30m, 12h, 90d …")] = None,
) -> None:
    """Create a key and print it: once, for only its hash is stored."""
    expires_at = None if expires is None else datetime.now(UTC) + parse_age(expires)
    check_database()
    with transaction() as connection:
        key_id, key = api_keys.create_key(
            connection,
            service,
            by=person(),
            name=name,
            scopes=scope or SCOPES,
            requests_per_minute=requests_per_minute,
            expires_at=expires_at,
        )
    err.print(f"key {key_id} of {escape(service)}; keep it, it cannot be shown again:")
    typer.echo(key)


@keys.command("list")
def show(
    service: Annotated[str | None, typer.Argument(help="Only this service's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the keys, by their first characters: the rest is stored nowhere."""
    check_database()
    with transaction() as connection:
        rows = api_keys.list_keys(connection, service)
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    columns = ("key", "service", "name", "begins", "scopes", "a minute>", "created", "by")
    listed = table(*columns, "last used", "state")
    for row in rows:
        listed.add_row(
            str(row["id"]),
            escape(row["service"]),
            escape(row["name"] or "-"),
            escape(row["prefix"]),
            ", ".join(row["scopes"]),
            str(row["requests_per_minute"] or "-"),
            when(row["created_at"]),
            escape(row["created_by"]),
            when(row["last_used_at"]),
            _state(row),
            style=None if row["valid"] else "dim",
        )
    out.print(listed if rows else "no keys")


@keys.command("revoke")
def revoke(ids: Annotated[list[str], typer.Argument(metavar="ID…")]) -> None:
    """End keys for good, within five seconds. Their jobs go on."""
    wanted = [parse_id(value, "a key") for value in ids]
    check_database()
    ended = 0
    for key_id in wanted:
        with transaction() as connection:
            service = api_keys.revoke_key(connection, key_id)
        if service is None:
            err.print(f"{key_id} was revoked before, or does not exist")
        else:
            ended += 1
            err.print(f"{key_id} of {escape(service)} revoked")
    if not ended:
        raise InvalidInput("no key was revoked")


def _state(row: RowMapping) -> str:
    if row["revoked_at"]:
        return f"revoked {when(row['revoked_at'])}"
    if not row["valid"]:
        return f"expired {when(row['expires_at'])}"
    return f"until {when(row['expires_at'])}" if row["expires_at"] else "valid"
