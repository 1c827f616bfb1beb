"""Alerts: what people should know, and whether somebody does."""

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
from worker.settings import get_settings
from worker.storage import alerts as storage
from worker.storage.engine import transaction

alerts = typer.Typer(help="What people should know: long replies, unknown prices, spend, drift.")


@alerts.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w …")] = "7d",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List alerts, the newest first."""
    if context.invoked_subcommand is not None:
        return
    after = datetime.now(UTC) - parse_age(since)
    check_database()
    with transaction() as connection:
        rows = storage.list_alerts(connection, after)
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    columns = ("alert", "last", "kind", "subject", "times>", "webhook", "seen by", "message~")
    listed = table(*columns)
    for row in rows:
        listed.add_row(
            str(row["id"]),
            when(row["last_at"]),
            escape(row["kind"]),
            escape(row["subject"]),
            f"{row['count']:,}",
            escape(_delivery(row)),
            escape(row["acknowledged_by"] or "-"),
            escape(row["message"]),
            style="dim" if row["acknowledged_at"] else None,
        )
    out.print(listed if rows else "no alerts")


@alerts.command("ack")
def acknowledge(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that nobody has seen.")] = False,
) -> None:
    """Note that you have seen alerts. What goes on is raised again after an hour."""
    if bool(ids) == every:
        raise InvalidInput("name alerts by id, or all of them with --all")
    wanted = None if every else [parse_id(value, "an alert") for value in ids or []]
    check_database()
    with transaction() as connection:
        seen = storage.acknowledge(connection, wanted, by=person())
    for alert_id in wanted or []:
        if alert_id not in seen:
            err.print(f"{alert_id} was acknowledged before, or does not exist")
    err.print(f"{len(seen):,} alerts acknowledged")
    if wanted and not seen:
        raise typer.Exit(1)


def _delivery(row: RowMapping) -> str:
    if row["delivered_at"]:
        return "posted"
    if row["next_delivery_at"] is None:
        return f"given up: {row['delivery_error']}"
    if row["delivery_attempts"]:
        return f"tried {row['delivery_attempts']}×: {row['delivery_error'] or 'no answer yet'}"
    return "waiting" if get_settings().alert_webhook_url else "-"
