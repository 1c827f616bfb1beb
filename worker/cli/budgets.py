"""Spending budgets: set them, raise them, see what is left."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from rich.markup import escape

from worker.cli.inspect import held_by, parse_id
from worker.cli.operate import person
from worker.cli.output import as_json, check_database, err, out, table, when
from worker.engine.checks import unstorable
from worker.engine.registry import load_registry
from worker.errors import InvalidInput
from worker.storage import budgets as storage
from worker.storage import read
from worker.storage.budgets import Which
from worker.storage.engine import transaction
from worker.storage.models.budgets import PERIODS
from worker.storage.models.jobs import LANES
from worker.storage.spending import dollars

budgets = typer.Typer(help="How many dollars calls may cost in a day or a month (UTC).")

_WHOSE = "all|task:NAME|user:ID|model:NAME"
_MOST_USD = Decimal(10) ** 10
_LONGEST_NAME = 2000

Whose = Annotated[
    str, typer.Argument(metavar=_WHOSE, help="Whose calls; task:* is each task on its own.")
]
Amount = Annotated[str, typer.Argument(metavar="DOLLARS", help="US dollars, such as 49.50.")]
Per = Annotated[str, typer.Option(help="day or month, in UTC.")]
Lane = Annotated[
    str | None, typer.Option(help="Only calls of this lane, interactive or batch; else both.")
]
#: So that -5 is an amount that is refused, not an option that is unknown.
_NUMBERS = {"ignore_unknown_options": True}


@budgets.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    held: Annotated[bool, typer.Option("--held", help="Only those that hold jobs.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the budgets: what is spent, what is reserved for calls in flight, what is left."""
    if context.invoked_subcommand is not None:
        return
    check_database()
    with transaction() as connection:
        rows = storage.status(connection, held=held, limit=limit)
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    columns = ("kind", "amount>", "spent>", "reserved>", "left>", "used>", "calls>", "until")
    listed = table("budget", *columns, "state")
    for row in rows:
        listed.add_row(
            escape(row["label"]),
            "hard" if row["hard"] else "soft",
            f"${dollars(row['amount_usd'])}",
            f"${row['spent_usd']:,.4f}",
            f"${row['reserved_usd']:,.4f}",
            f"${row['left_usd']:,.4f}",
            "-" if row["percent"] is None else f"{row['percent']} %",
            f"{row['calls']:,}",
            when(row["ends_at"]),
            "[bold red]holds jobs[/]" if row["held"] else "",
        )
    out.print(listed if rows else "no budget holds jobs" if held else "no budgets")


@budgets.command("set", context_settings=_NUMBERS)
def set_(
    whose: Whose,
    amount: Amount,
    per: Per,
    lane: Lane = None,
    hard: Annotated[
        bool, typer.Option("--hard/--soft", help="Hold jobs once it is used up, or only tell.")
    ] = False,
    alert_at: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1000, help="Tell people at this percentage. Several; 80 and 100."),
    ] = None,
) -> None:
    """Set a budget, or change the one that there is. What was spent in its window so far counts."""
    which, usd = _which(whose, per, lane), parse_amount(amount)
    thresholds = sorted(set(alert_at or (80, 100)))
    if len(thresholds) > 20:
        raise InvalidInput("--alert-at: 20 percentages at most")
    check_database()
    with transaction() as connection:
        before = storage.find(connection, which)
        storage.put(connection, which, usd, hard=hard, alert_at=thresholds, by=person())
    kind = "hard" if hard else "soft"
    was = f", it was ${dollars(before['amount_usd'])}" if before else ""
    err.print(escape(f"{which}: ${dollars(usd)} ({kind}){was}"))
    _warn_of_model(which)


@budgets.command("raise", context_settings=_NUMBERS)
def raise_(whose: Whose, amount: Amount, per: Per, lane: Lane = None) -> None:
    """Raise a budget to a new amount; what it held is started at once."""
    which, usd = _which(whose, per, lane), parse_amount(amount)
    check_database()
    with transaction() as connection:
        before = storage.find(connection, which)
        if before is None:
            raise InvalidInput(f"there is no budget {which}; `claude-jobs budgets` lists them")
        if usd <= before["amount_usd"]:
            raise InvalidInput(
                f"{which} is ${dollars(before['amount_usd'])}: name a higher amount, or use "
                "`claude-jobs budgets set`"
            )
        storage.put(
            connection,
            which,
            usd,
            hard=before["hard"],
            alert_at=before["alert_at"],
            by=person(),
        )
    err.print(escape(f"{which}: ${dollars(usd)}, it was ${dollars(before['amount_usd'])}"))


@budgets.command("remove")
def remove(whose: Whose, per: Per, lane: Lane = None) -> None:
    """Remove a budget; what it held is started at once."""
    which = _which(whose, per, lane, known=False)
    check_database()
    with transaction() as connection:
        if not storage.remove(connection, which):
            raise InvalidInput(f"there is no budget {which}; `claude-jobs budgets` lists them")
    err.print(escape(f"{which}: removed"))


@budgets.command("why")
def why(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which budgets hold a job, and until when."""
    check_database()
    with transaction() as connection:
        wanted = parse_id(job_id)
        state = read.outcome(connection, wanted)["state"]
        holding = storage.holding(connection, wanted, load_registry().models())
    if json:
        typer.echo(as_json([dict(row) for row in holding]))
        return
    for row in holding:
        out.print(held_by(row))
    if not holding:
        out.print(f"no budget holds the job, which is {state}")


@budgets.command("recount")
def recount() -> None:
    """Count what was spent anew from the usage table, after prices were corrected."""
    check_database()
    with transaction() as connection:
        counted = storage.recount(connection)
    err.print(f"{counted:,} budgets counted")


def parse_amount(value: str) -> Decimal:
    """US dollars.

    Raises:
        InvalidInput: it is no number of 0 to ten billion with eight decimal places at most.
    """
    try:
        usd = Decimal(value.removeprefix("$"))
    except InvalidOperation:
        raise InvalidInput(f"{value[:50]!r} is no amount of dollars such as 49.50") from None
    if not usd.is_finite() or usd.is_signed() or usd >= _MOST_USD:
        raise InvalidInput(f"{value[:50]!r} is not between 0 and ten billion dollars")
    exponent = usd.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -8:
        raise InvalidInput(f"{value[:50]!r} has more than eight decimal places")
    return usd


def _which(whose: str, per: str, lane: str | None, *, known: bool = True) -> Which:
    scope, _, name = whose.partition(":")
    if scope not in ("all", "task", "user", "model") or (scope == "all") == bool(name):
        raise InvalidInput(f"{whose[:100]!r} is none of {_WHOSE.replace('|', ', ')}")
    if per not in PERIODS:
        raise InvalidInput(f"--per {per[:50]!r}: choose day or month")
    if lane is not None and lane not in LANES:
        raise InvalidInput(f"--lane {lane[:50]!r}: choose interactive or batch")
    if len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise InvalidInput(f"{scope}: a name has {_LONGEST_NAME:,} bytes at most")
    if problem := unstorable(name):
        raise InvalidInput(f"{scope}{problem}")
    if known and scope == "task" and name != "*":
        load_registry()[name]
    return Which(scope, name, per, lane)


def _warn_of_model(which: Which) -> None:
    from worker.claude.pricing import cost_usd  # the price list: 50 ms for the one that needs it
    from worker.claude.reply import Tokens

    if which.scope == "model" and which.name != "*" and cost_usd(which.name, Tokens()) is None:
        err.print(
            escape(
                f"no price is known for {which.name}: is that its name? Its calls count as "
                "nothing until CLAUDE_JOBS_PRICES_FILE names it"
            )
        )
