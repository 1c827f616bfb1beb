"""Which prompt versions serve: releasing them, going back, and what served when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from worker.cli.operate import person
from worker.cli.output import as_json, check_database, err, out, table, when
from worker.cli.prompttest import task_of
from worker.engine import evidence, releasing
from worker.engine.allocation import Allocation, parse_weights
from worker.engine.evidence import Evidence
from worker.engine.prompts import get_prompts
from worker.engine.registry import Registry, load_registry
from worker.engine.watchdog import parse_limits
from worker.errors import ConfigurationError, InvalidInput, ReleaseRefused
from worker.settings import get_prompts_dir, get_settings
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.releases import Release

Name = Annotated[str, typer.Argument(metavar="NAME", help="The prompt, as its folder is named.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]


def release(
    name: Name,
    versions: Annotated[
        list[str],
        typer.Argument(metavar="VERSION[=PERCENT]…", help="One version, or several with shares."),
    ],
    reason: Reason = "",
    force: Annotated[
        bool, typer.Option("--force", help="Although tests or reviews are missing; say why.")
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=LIMIT",
            help="Let the watchdog expect more of this release: cost=6 or length=3 (times as "
            "much), validity=10 or refusals=10 (points more).",
        ),
    ] = None,
) -> None:
    """Put a version in force: `release NAME 1.2`, or beside another: `release NAME 1.1=90 1.2=10`.

    A version that does not serve yet must have passed its cases, and people must have read what it
    writes. Users keep the version they have as far as the shares allow. Queued jobs get what serves
    when they are started; pinned jobs, and calls that are running, are left alone.
    """
    if force and not reason.strip():
        raise InvalidInput('--force goes with --reason "…": it stays in the history')
    check_database()
    registry = load_registry()
    shares = parse_weights(versions)
    kept: dict[str, Any] = {"watch": parse_limits(expect)} if expect else {}
    with transaction() as connection:
        asks = bool(releasing.to_be_judged(connection, registry.prompts, name, shares))
    # Reading them takes a second, which nobody who releases should wait for.
    cases = _cases_sha256(registry, name) if asks else ""
    with transaction() as connection:
        found = [
            evidence.gather(connection, prompt, cases)
            for prompt in releasing.to_be_judged(connection, registry.prompts, name, shares)
        ]
        missing = _missing(found)
        if missing and not force:
            raise ReleaseRefused(f'{"; ".join(missing)}; or insist: --force --reason "…"')
        kept |= {each.prompt.version: each.as_json() for each in found}
        made = releasing.release(
            connection,
            registry.prompts,
            name,
            shares,
            by=person(),
            reason=reason,
            forced=bool(missing),
            evidence=kept,
        )
    err.print(f"release {made.id}: {name} {_shares(made)}")
    for each in found:
        err.print(f"{name}/{each.prompt.version}: {each.tested()}; {each.proves()}")


def _missing(found: Sequence[Evidence]) -> list[str]:
    """What stands against the newcomers, a phrase each."""
    samples = get_settings().release_reviews
    lacking = {f"{e.prompt.name}/{e.prompt.version}": e.missing(samples) for e in found}
    return [f"{name} is not ready: {'; '.join(what)}" for name, what in lacking.items() if what]


def _cases_sha256(registry: Registry, name: str) -> str | None:
    """What the cases of a prompt are now: "" if there are none that can be read.

    None without the extra that reads them.
    """
    task = task_of(registry, name, None)
    try:
        from worker.evals.cases import load_cases
    except ModuleNotFoundError:
        err.print(
            "not compared with today's cases: that needs `pip install 'claude-jobs[prompts]'`",
            style="yellow",
        )
        return None
    try:
        return load_cases(get_prompts_dir(), task).sha256
    except ConfigurationError as error:  # whoever insists can release all the same
        err.print(escape(str(error)), style="yellow")
        return ""


def rollback(
    name: Name,
    version: Annotated[
        str | None, typer.Argument(help="Give everybody this earlier version.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Go back to what served before the current release; again, to what served before that.

    Everybody is given the version that they had then. It needs no tests and no reviews, and holds
    for every job that is started from now on, on all workers.
    """
    check_database()
    library = load_registry().prompts
    with transaction() as connection:
        made = releasing.rollback(connection, library, name, version, by=person(), reason=reason)
    assert made is not None  # noqa: S101 – no release was asked to be the current one
    err.print(f"release {made.id}: {name} is back at {_shares(made)}")


def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what served when, the newest first: who released it, and why."""
    check_database()
    get_prompts().versions(name)
    with transaction() as connection:
        rows = releases.history(connection, name, limit)
    if json:
        typer.echo(as_json([asdict(row) for row in rows]))
        return
    listed = table("release", "when", "what", "serves", "by", "reason~")
    for row in rows:
        restored = f" to {row.restores}" if row.restores else ""
        listed.add_row(
            str(row.id),
            when(row.created_at),
            row.kind.replace("_", " ") + restored + (", forced" if row.forced else ""),
            escape(_shares(row)),
            escape(row.released_by),
            escape(row.reason or "-"),
        )
    out.print(listed if rows else f"{name} was never released: its highest version serves")


def _shares(release: Release) -> str:
    return str(Allocation.from_rows(release.allocation))
