"""The fleet: what waits, who works, and whether anything moves."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from sqlalchemy import Connection

from worker.cli.inspect import held_by
from worker.cli.output import as_json, check_database, err, out, table, when
from worker.engine.registry import load_registry
from worker.limits.limiter import Limiter
from worker.limits.types import ClassState
from worker.settings import get_settings
from worker.storage import budgets, control, fleet
from worker.storage.engine import transaction
from worker.storage.models import STATES

_MOST_HELD = 20


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show jobs by task and state, the oldest due job, pauses, workers and rate limits."""
    check_database()
    if json:
        with transaction() as connection:
            typer.echo(as_json(_facts(connection)))
        return
    if not watch:
        out.print(_page())
        return
    try:
        with Live(_page(), console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                time.sleep(1)
                live.update(_page(), refresh=True)
    except KeyboardInterrupt:
        return


def health(
    stalled_after: Annotated[
        float, typer.Option(help="Seconds that due jobs may wait while none is claimed.")
    ] = 120,
) -> None:
    """Exit with 0 if due jobs are being claimed, with 1 and a reason if not.

    It judges progress, not processes: a worker that answers a ping and claims nothing is sick.
    """
    check_database()
    with transaction() as connection:
        progress = _progress(connection)
    due, claimed = progress.oldest_due, progress.last_claim
    closed = [state for state in _limits() if state.closed_for > 0]
    if closed and progress.live_workers:
        reopens = max(state.closed_for for state in closed)
        err.print(f"healthy: waiting for the rate limit, which Claude reopens in {reopens:.0f} s")
        return
    if progress.stalled(stalled_after):
        last = "nothing was ever claimed"
        if claimed is not None:
            last = f"the last claim was {claimed:.0f} s ago"
        err.print(
            f"claude-jobs: unhealthy: a job has been due for {due:.0f} s and {last}; "
            f"{progress.live_workers} live workers: look at their logs and at the broker"
        )
        raise typer.Exit(1)
    state = "nothing is due" if due is None else f"the oldest due job has waited {due:.1f} s"
    err.print(f"healthy: {state}, {progress.live_workers} live workers")


def _silent() -> float:
    # A worker reports every third of a lease.
    return get_settings().lease_seconds


def _progress(connection: Connection) -> fleet.Progress:
    return fleet.progress(connection, silent=_silent(), models=load_registry().models())


def _facts(connection: Connection) -> dict[str, object]:
    progress = _progress(connection)
    return {
        "jobs": [dict(row) for row in fleet.counts(connection)],
        "oldest_due_seconds": progress.oldest_due,
        "last_claim_seconds": progress.last_claim,
        "pauses": [dict(row) for row in control.pauses(connection)],
        "holding": [dict(row) for row in budgets.status(connection, held=True, limit=_MOST_HELD)],
        "workers": [dict(row) for row in fleet.workers(connection)],
        "limits": [asdict(state) for state in _limits()],
    }


def _limits() -> list[ClassState]:
    limiter = Limiter(get_settings())
    try:
        return limiter.snapshot()
    finally:
        limiter.close()


def _limits_table(states: list[ClassState]) -> RenderableType:
    columns = ("requests left>", "input left>", "output left>", "closed for>", "ramp>")
    listed = table("model class", *columns, title="Rate limits a minute")
    for state in states:
        left = (
            "no limit" if limit is None else f"{max(level or 0, 0):,.0f} of {limit:,.0f}"
            for limit, level in zip(state.limits, state.levels, strict=True)
        )
        closed = f"{state.closed_for:.0f} s" if state.closed_for else "·"
        ramp = f"{state.ramp:.0%}" if state.ramp < 1 else "·"
        listed.add_row(
            state.model_class, *left, closed, ramp, style="yellow" if state.closed_for else None
        )
    return listed


def _page() -> RenderableType:
    with transaction() as connection:
        counted = fleet.counts(connection)
        progress = _progress(connection)
        pauses = control.pauses(connection)
        holding = budgets.status(connection, held=True, limit=_MOST_HELD)
        workers = fleet.workers(connection)
    by_task: dict[str, dict[str, int]] = defaultdict(dict)
    for row in counted:
        by_task[row["task"]][row["state"]] = row["jobs"]
    jobs = table("task", *(f"{state}>" for state in STATES), title="Jobs (ended: last hour)")
    for task, states in by_task.items():
        jobs.add_row(task, *(f"{states[s]:,}" if s in states else "·" for s in STATES))
    shown: list[RenderableType] = [jobs, ""]
    waited = "nothing" if progress.oldest_due is None else f"{progress.oldest_due:.1f} s"
    shown += [f"oldest due job has waited: {waited}", ""]
    for pause in pauses:
        what = escape(f"{pause['scope']} {pause['name']}".rstrip())
        since = f"since {when(pause['created_at'])} by {escape(pause['paused_by'])}"
        shown += [f"[bold red]PAUSED {what}[/] {since}: {escape(pause['reason'])}", ""]
    for row in holding:
        shown += [f"[bold yellow]HELD BY BUDGET[/] {held_by(row)}", ""]
    listed = table("worker", "running>", "slots>", "last seen>", "since", title="Workers")
    for worker in workers:
        silent = worker["silent"]
        style = "red" if silent > _silent() else None
        listed.add_row(
            worker["name"],
            str(worker["running"]),
            str(worker["slots"]),
            f"{silent:.0f} s ago",
            when(worker["started_at"]),
            style=style,
        )
    shown.append(listed if workers else "no workers")
    if limits := _limits():
        shown += ["", _limits_table(limits)]
    return Group(*shown)
