"""What was posted when jobs had ended, what was not, and another try."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.cli.inspect import parse_id
from worker.cli.operate import parse_age
from worker.cli.output import as_json, check_database, err, out, styled_state, table, when
from worker.engine.signing import secrets_for
from worker.errors import ConfigurationError, InvalidInput
from worker.settings import get_settings
from worker.storage import webhooks as storage
from worker.storage.engine import transaction

webhooks = typer.Typer(help="The ends of jobs that are posted to webhooks: list, retry, secrets.")

Since = Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w …")]


@webhooks.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    since: Since = "7d",
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Only what no webhook has taken.")
    ] = False,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with the whole URLs.")] = False,
) -> None:
    """List deliveries, the newest first."""
    if context.invoked_subcommand is not None:
        return
    job_id = None if job is None else parse_id(job)
    after = datetime.now(UTC) - parse_age(since)
    check_database()
    with transaction() as connection:
        rows = storage.list_deliveries(
            connection, since=after, undelivered=undelivered, job_id=job_id, limit=limit
        )
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    columns = ("delivery", "job", "task", "state", "service", "host", "finished", "tries>")
    listed = table(*columns, "outcome~")
    for row in rows:
        listed.add_row(
            str(row["id"]),
            str(row["job_id"]),
            escape(row["task"]),
            styled_state(row["state"]),
            escape(row["service"] or "-"),
            escape(row["host"]),
            when(row["finished_at"]),
            str(row["attempts"]),
            escape(_outcome(row)),
        )
    out.print(listed if rows else "no deliveries")


@webhooks.command("retry")
def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    since: Since = "7d",
) -> None:
    """Post deliveries again, those named or all that were given up, and for a day if need be."""
    if bool(ids) == every:
        raise InvalidInput("name deliveries by id, or all that were given up with --all")
    wanted = None if every else [parse_id(value, "a delivery") for value in ids or []]
    after = datetime.now(UTC) - parse_age(since)
    check_database()
    with transaction() as connection:
        retried = storage.retry(connection, ids=wanted, since=after)
    for delivery_id in wanted or []:
        if delivery_id not in retried:
            err.print(f"{delivery_id} does not exist")
    err.print(f"{len(retried):,} deliveries will be posted again")
    if wanted and not retried:
        raise typer.Exit(1)


@webhooks.command("secret")
def secret(
    service: Annotated[
        str | None,
        typer.Argument(help="As in an API key, or the database role. None: jobs of no service."),
    ] = None,
) -> None:
    """Print what a service's webhooks verify signatures with: one secret a line, newest first."""
    setting = get_settings().webhook_secret
    if setting is None:
        raise ConfigurationError("CLAUDE_JOBS_WEBHOOK_SECRET is not set: nothing is posted")
    for each in secrets_for(setting.get_secret_value(), service):
        typer.echo(each)


def _outcome(row: RowMapping) -> str:
    if row["delivered_at"]:
        return f"HTTP {row['status']}, {when(row['delivered_at'])}"
    if row["next_attempt_at"] is None:
        return f"given up: {row['error']}"
    if row["error"]:
        return f"again {when(row['next_attempt_at'])}: {row['error']}"
    return "waiting"
