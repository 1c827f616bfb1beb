"""Spending: what it was, on what, and whether `max_tokens` is what it should be."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, get_args

import typer
from rich.markup import escape

from worker.claude.reply import Tokens
from worker.cli.operate import parse_age
from worker.cli.output import as_json, check_database, err, money, out, table
from worker.engine.prompts import get_prompts
from worker.errors import ClaudeJobsError, InvalidInput
from worker.report.replies import suggested_max_tokens
from worker.storage import usage as ledger
from worker.storage.engine import transaction

usage = typer.Typer(help="What calls cost, by task, prompt version, model, user or day.")

Since = Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w …")]

#: Rows priced per transaction.
_BATCH = 1000


@usage.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    by: Annotated[str, typer.Option(help=", ".join(get_args(ledger.Dimension)) + ".")] = "task",
    since: Since = "7d",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show calls, tokens and dollars."""
    if context.invoked_subcommand is not None:
        return
    if by not in get_args(ledger.Dimension):
        raise InvalidInput(f"--by {by}: choose one of {', '.join(get_args(ledger.Dimension))}")
    check_database()
    with transaction() as connection:
        rows = ledger.totals(connection, by, _ago(since))  # type: ignore[arg-type]
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    tokens = ("input>", "cached>", "output>", "thinking>")
    listed = table(by, "jobs>", "calls>", "ok>", *tokens, "cost>", "served>", "spared>")
    for row in rows:
        listed.add_row(
            escape(row["key"]),
            f"{row['jobs']:,}",
            f"{row['calls']:,}",
            f"{row['ok'] / row['calls']:.0%}" if row["calls"] else "-",
            f"{row['input_tokens'] + row['cache_write_tokens']:,}",
            f"{row['cache_read_tokens']:,}",
            f"{row['output_tokens']:,}",
            f"{row['thinking_tokens']:,}",
            money(row["cost_usd"]),
            f"{row['hits'] + row['coalesced']:,}",
            money(row["spared_usd"]),
        )
    out.print(listed if rows else f"no calls in the last {since}")
    if rows:
        out.print(f"total {money(sum((row['cost_usd'] for row in rows), Decimal(0)))}")
    if unpriced := sum(row["unpriced"] for row in rows):
        err.print(
            f"{unpriced:,} calls have no price: update genai-prices, or name their models in "
            "CLAUDE_JOBS_PRICES_FILE, and run `usage reprice`"
        )


@usage.command("profile")
def profile(since: Since = "7d") -> None:
    """Show how long replies are beside `max_tokens`, and what would do."""
    check_database()
    with transaction() as connection:
        rows = ledger.profile(connection, _ago(since))
    columns = ("calls>", "p50>", "p95>", "p99>", "max>", "thinking p95>", "truncated>")
    listed = table("prompt", *columns, "max_tokens>", "suggested>")
    for row in rows:
        p50, p95, p99, longest = row["reply"]
        try:
            limit = get_prompts().get(row["prompt"], row["prompt_version"]).file.max_tokens
        except ClaudeJobsError:  # the version is gone from the folder, its calls are not
            limit = None
        listed.add_row(
            f"{row['prompt']}/{row['prompt_version']}",
            f"{row['calls']:,}",
            *(f"{value:,}" for value in (p50, p95, p99, longest, row["thinking"][1])),
            f"{row['truncated']:.1%}",
            "-" if limit is None else f"{limit:,}",
            f"{suggested_max_tokens(row['output'][2]):,}",
        )
    out.print(listed if rows else f"no complete replies in the last {since}")


@usage.command("reprice")
def reprice(since: Since = "7d") -> None:
    """Price calls anew, e.g. after the price list learned a model or a contract was signed."""
    from worker.claude.pricing import price_book  # the price list: 50 ms for the one that needs it

    book = price_book()
    check_database()
    changed = after = seen = 0
    while True:
        with transaction() as connection:
            rows = ledger.priced_rows(connection, _ago(since), after=after, limit=_BATCH)
            prices = []
            for row in rows:
                tokens = Tokens(
                    input=row["input_tokens"],
                    cache_read=row["cache_read_tokens"],
                    cache_write_5m=row["cache_write_5m_tokens"],
                    cache_write_1h=row["cache_write_1h_tokens"],
                    output=row["output_tokens"],
                    thinking=row["thinking_tokens"],
                )
                model, at, batch = row["model"], row["created_at"], row["source"] == "batch"
                price = {
                    "cost_usd": book.cost_usd(model, tokens, batch=batch, at=at),
                    "full_cost_usd": book.full_cost_usd(model, tokens, at=at),
                }
                if any(row[column] != cost for column, cost in price.items()):
                    prices.append({"id": row["id"], "version": book.version, **price})
            ledger.reprice(connection, prices)
        changed, seen = changed + len(prices), seen + len(rows)
        if len(rows) < _BATCH:
            break
        after = rows[-1]["id"]
    err.print(f"{seen:,} calls looked at, {changed:,} have a new cost ({book.version})")


def _ago(age: str) -> datetime:
    return datetime.now(UTC) - parse_age(age)
