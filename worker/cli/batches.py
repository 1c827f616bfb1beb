"""Message Batches: what is on its way, what came of it, and ending one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.cli.operate import parse_age
from worker.cli.output import as_json, check_database, err, money, out, table, when
from worker.errors import InvalidInput, JobNotFound
from worker.storage import batch_listing as storage
from worker.storage.engine import transaction

batches = typer.Typer(help="Message Batches: list them, show one, cancel one.")

_STYLES = {"submitted": "yellow", "ended": "yellow", "ingested": "green", "failed": "red"}

Id = Annotated[str, typer.Argument(metavar="ID", help="Ours, or Anthropic's (msgbatch_…).")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@batches.callback(invoke_without_command=True)
def show_all(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w …")] = "7d",
    only_open: Annotated[bool, typer.Option("--open", help="Only those not done yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List batches, the newest first."""
    if context.invoked_subcommand is not None:
        return
    after = datetime.now(UTC) - parse_age(since)
    check_database()
    with transaction() as connection:
        rows = storage.list_batches(connection, since=after, only_open=only_open, limit=limit)
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    listed = table(
        "batch", "model", "state", "requests>", "settled>", "MB>", "created", "ended", "cost>", "~"
    )
    for row in rows:
        listed.add_row(
            str(row["id"]),
            escape(row["model"]),
            _state(row),
            f"{row['requests'] or row['in_flight']:,}",
            f"{row['settled']:,}",
            f"{row['bytes'] / 1e6:.1f}",
            when(row["created_at"]),
            when(row["ended_at"]),
            money(row["cost_usd"]),
            escape(row["error"] or ""),
        )
    out.print(listed if rows else "no batches")


@batches.command("show")
def show(name: Id, json: Json = False) -> None:
    """Show a batch: its times, what became of its requests, and what they cost."""
    check_database()
    with transaction() as connection:
        row = _find(storage.find(connection, _parsed(name), name), name)
        outcomes = storage.outcomes(connection, row["id"])
    if json:
        typer.echo(as_json(dict(row) | {"outcomes": [dict(each) for each in outcomes]}))
        return
    facts = table("", "~")
    for label, value in _facts(row):
        facts.add_row(label, value)
    out.print(facts)
    listed = table("task", "prompt", "outcome", "calls>", "cost>")
    for each in outcomes:
        cost = money(each["cost_usd"])
        calls = f"{each['calls']:,}"
        listed.add_row(escape(each["task"]), escape(each["prompt"]), each["outcome"], calls, cost)
    out.print(listed if outcomes else "no calls")


@batches.command("cancel")
def cancel(name: Id) -> None:
    """Cancel a batch; what Claude has not processed is run one by one, at full price.

    To end jobs for good, use `claude-jobs cancel` with their ids.
    """
    check_database()
    with transaction() as connection:
        row = _find(storage.find(connection, _parsed(name), name), name)
        asked = storage.request_cancel(connection, row["id"])
    if not asked:
        state = "not sent yet" if row["state"] == "intent" else row["state"]
        raise InvalidInput(f"batch {row['id']} is {state}: there is nothing to cancel")
    err.print(f"{row['id']} will be cancelled; what it has done by then counts")


def _find(row: RowMapping | None, name: str) -> RowMapping:
    if row is None:
        raise JobNotFound(f"no batch {name}")
    return row


def _parsed(name: str) -> UUID | None:
    if name.startswith("msgbatch_"):
        return None
    try:
        return UUID(name)
    except ValueError:
        raise InvalidInput(f"{name!r} is no batch id: a UUID or msgbatch_… is expected") from None


def _state(row: RowMapping) -> str:
    state = row["state"]
    if state == "intent" and row["sent_at"]:
        return "[red]unconfirmed[/]"
    if state == "intent":
        return "[cyan]gathering[/]"
    if row["cancel_requested"] and state == "submitted":
        return "[magenta]cancelling[/]"
    return f"[{_STYLES[state]}]{state}[/]"


def _facts(row: RowMapping) -> list[tuple[str, str]]:
    counts = ", ".join(
        f"{row[kind]:,} {kind}" for kind in ("succeeded", "errored", "canceled", "expired")
    )
    saved = None
    if row["cost_usd"] is not None and row["full_cost_usd"] is not None:
        saved = row["full_cost_usd"] - row["cost_usd"]
    return [
        ("batch", str(row["id"])),
        ("Anthropic's", escape(row["anthropic_id"] or "-")),
        ("model", escape(row["model"])),
        ("state", _state(row)),
        ("requests", f"{row['requests']:,} ({row['bytes']:,} bytes)"),
        ("created", when(row["created_at"])),
        ("sent", when(row["sent_at"])),
        ("submitted", when(row["submitted_at"])),
        ("expires", when(row["expires_at"])),
        ("ended", when(row["ended_at"])),
        ("results", counts if row["ended_at"] else "-"),
        ("settled", f"{row['settled']:,}, {row['in_flight']:,} in flight"),
        ("ingested", when(row["ingested_at"])),
        ("cost", f"{money(row['cost_usd'])}, saved {money(saved)}"),
        ("looked at next", when(row["look_at"])),
        ("looks in vain", str(row["failures"])),
        ("error", escape(row["error"] or "-")),
    ]
