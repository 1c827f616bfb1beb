"""Intervening: cancel, look at what failed, run it again, pause and resume."""

from __future__ import annotations

import getpass
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from worker.cli.inspect import parse_id
from worker.cli.output import check_database, err, out, table, when
from worker.engine.registry import load_registry
from worker.errors import InvalidInput, JobNotFound
from worker.storage import control
from worker.storage.control import Selection
from worker.storage.engine import transaction

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_525)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]…")]
Task = Annotated[str | None, typer.Option(help="Only this task.")]
ErrorType = Annotated[str | None, typer.Option(help="Only this type of error, e.g. overloaded.")]
Since = Annotated[str | None, typer.Option(help="Ended within 30m, 2h, 7d …")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def cancel(ids: Annotated[list[str], typer.Argument(metavar="ID…")]) -> None:
    """Cancel jobs: queued ones at once, running ones within seconds."""
    check_database()
    wanted = [parse_id(value) for value in ids]
    with transaction() as connection:
        states = control.cancel_jobs(connection, wanted)
    for job_id in wanted:
        match states.get(job_id):
            case None:
                err.print(f"{job_id} has ended already, or does not exist")
            case "running":
                err.print(f"{job_id} is running and will be cancelled")
            case _:
                err.print(f"{job_id} cancelled")
    if not states:
        raise typer.Exit(1)


def failed(
    task: Task = None,
    error: ErrorType = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
) -> None:
    """List failed jobs, the newest first."""
    check_database()
    with transaction() as connection:
        rows = control.failed_jobs(connection, _selection(None, task, error, since), limit=limit)
    listed = table("job", "task", "failed", "attempts>", "rescues>", "error", "message~")
    for row in rows:
        listed.add_row(
            str(row["id"]),
            row["task"],
            when(row["finished_at"]),
            str(row["attempt"]),
            str(row["rescues"]),
            row["error"] or "-",
            escape(_shortened(row["message"] or "")),
        )
    out.print(listed if rows else "no failed jobs")


def requeue(
    ids: Ids = None,
    task: Task = None,
    error: ErrorType = None,
    since: Since = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Yes = False,
) -> None:
    """Run failed or cancelled jobs again, with all their attempts; their usage stays on record."""
    check_database()
    if not ids and not (task or error or since):
        raise InvalidInput("name jobs by id, or choose with --task, --error or --since")
    selection = _selection(ids, task, error, since)
    with transaction() as connection:
        counted = control.count_requeueable(connection, selection)
    total = sum(row["jobs"] for row in counted)
    for row in counted:
        err.print(f"{row['jobs']:>8,}  {row['task']}  {row['error'] or 'cancelled'}")
    if total == 0:
        raise JobNotFound("no failed or cancelled job fits")
    if dry_run:
        err.print(f"{total:,} jobs would be requeued")
        return
    if not yes and not ids and not _confirmed(f"Requeue {total:,} jobs?"):
        raise typer.Exit(1)
    with transaction() as connection:
        requeued = control.requeue_jobs(connection, selection)
    err.print(f"{len(requeued):,} jobs requeued")


def pause(
    scope: Annotated[str, typer.Argument(metavar="all|task:NAME|model:NAME")] = "all",
    reason: Annotated[str, typer.Option(help="Why; shown by `claude-jobs status`.")] = "by hand",
) -> None:
    """Stop starting jobs: of a task, on a model, or all. Running ones finish."""
    check_database()
    kind, name = _scope(scope)
    with transaction() as connection:
        new = control.pause(connection, kind, name, reason=reason, by=person())
    err.print(f"{scope} is paused" if new else f"{scope} was paused already")


def resume(
    scope: Annotated[str, typer.Argument(metavar="all|task:NAME|model:NAME")] = "all",
) -> None:
    """End a pause; what waited is started in order."""
    check_database()
    kind, name = _scope(scope)
    with transaction() as connection:
        ended = control.resume(connection, kind, name)
        left = control.pauses(connection)
    err.print(f"{scope} is resumed" if ended else f"{scope} was not paused")
    for row in left:
        err.print(f"still paused: {row['scope']} {row['name']}".rstrip())


def _scope(value: str) -> tuple[str, str]:
    kind, _, name = value.partition(":")
    if kind == "all" and not name:
        return "all", ""
    if kind == "task" and name:
        load_registry()[name]
        return kind, name
    if kind == "model" and name:
        return kind, name
    raise InvalidInput(f"{value!r} is none of all, task:NAME, model:NAME")


def _selection(
    ids: list[str] | None, task: str | None, error: str | None, since: str | None
) -> Selection:
    # A task that was removed may have left failed jobs: its name is not checked.
    return Selection(
        ids=[parse_id(value) for value in ids] if ids else None,
        task=task,
        error=error,
        since=None if since is None else datetime.now(UTC) - parse_age(since),
    )


def parse_age(value: str) -> timedelta:
    """`90s`, `30m`, `2h`, `7d` or `1w`.

    Raises:
        InvalidInput: it is none of these.
    """
    found = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    if found is None:
        raise InvalidInput(f"{value!r} is no age such as 30m, 2h or 7d")
    age = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if age > _LONGEST:
        raise InvalidInput(f"{value!r} is longer than a hundred years")
    return age


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInput("add --yes to confirm where nobody can be asked")
    return typer.confirm(question)


def person() -> str:
    """Who runs the command, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _shortened(message: str) -> str:
    return message if len(message) <= 120 else f"{message[:119]}…"
