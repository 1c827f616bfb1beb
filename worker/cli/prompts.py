"""The prompts: their versions, and which of them serve."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from worker.cli.operate import person
from worker.cli.output import as_json, check_database, err, out, table, when
from worker.cli.promptdiff import difference
from worker.engine import promptlock, releasing
from worker.engine.allocation import POINTS, Allocation, parse_weights, percent_of
from worker.engine.pins import SHORT_HASH
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.engine.watchdog import parse_limits
from worker.settings import get_prompts_dir
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.releases import Release

prompts = typer.Typer(
    help="Look after the prompts: which versions there are, and which serve.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The prompt, as its folder is named.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@prompts.command("lock")
def lock() -> None:
    """Record the hash of every new prompt version; from then on it is immutable."""
    added = promptlock.lock(get_prompts(), get_prompts_dir())
    for name in added:
        err.print(f"locked {name}")
    if not added:
        err.print("nothing to do: every version is locked")


@prompts.command("check")
def check() -> None:
    """Check every prompt version, without asking Claude.

    None that is locked was edited or removed, all are locked; template and input agree, the output
    is a schema that the API takes, and the recorded replies are still accepted.
    """
    from worker.engine.promptcheck import check_versions  # the SDK, for the one that needs it

    promptlock.check(get_prompts(), get_prompts_dir())
    for version in check_versions(load_registry(), get_prompts_dir()):
        recorded = f"{version.recordings} recorded replies accepted"
        if not version.recordings:
            recorded = "no recorded replies: `claude-jobs prompts test --live` makes some"
        err.print(f"{version.name}: locked, unchanged, {recorded}")


@prompts.command("list")
def list_versions(json: Json = False) -> None:
    """List every version of every prompt, and the share of the traffic that it serves."""
    check_database()
    library = get_prompts()
    with transaction() as connection:
        current = {release.prompt: release for release in releases.serving(connection)}
    listed = table("prompt", "version", "serves>", "since", "model", "max_tokens>", "content")
    rows = []
    for prompt in library:
        release = current.get(prompt.name)
        served = releasing.what_serves(library, prompt.name, release)
        points = served.allocation.shares().get(prompt.version, 0) if served.has(prompt) else 0
        since = release.created_at if release and points else None
        rows.append(
            {
                "prompt": prompt.name,
                "version": prompt.version,
                "serves_percent": points * 100 / POINTS,
                "since": since,
                "sha256": prompt.sha256,
                **prompt.file.model_dump(exclude={"system", "template", "notes"}),
            }
        )
        listed.add_row(
            escape(prompt.name),
            escape(prompt.version),
            f"{percent_of(points)} %" if points else "-",
            when(since) if since or not points else "highest",
            escape(prompt.file.model),
            f"{prompt.file.max_tokens:,}",
            prompt.sha256[:SHORT_HASH],
            style=None if points else "dim",
        )
    if json:
        typer.echo(as_json(rows))
    else:
        out.print(listed)


@prompts.command("release")
def release(
    name: Name,
    versions: Annotated[
        list[str],
        typer.Argument(metavar="VERSION[=PERCENT]…", help="One version, or several with shares."),
    ],
    reason: Reason = "",
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

    Users keep the version they have as far as the shares allow. Queued jobs get what serves when
    they are started; jobs that are pinned to a version, and calls that are running, are left alone.
    """
    check_database()
    library = load_registry().prompts
    shares = parse_weights(versions)
    evidence = {"watch": parse_limits(expect)} if expect else {}
    with transaction() as connection:
        made = releasing.release(
            connection, library, name, shares, by=person(), reason=reason, evidence=evidence
        )
    err.print(f"release {made.id}: {name} {_shares(made)}")


@prompts.command("rollback")
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


@prompts.command("history")
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    json: Json = False,
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


@prompts.command("diff")
def diff(name: Name, old: str, new: str) -> None:
    """Show what differs between two versions of a prompt."""
    library = get_prompts()
    lines = list(difference(library.get(name, old), library.get(name, new)))
    for line in lines:
        out.print(line)
    if not lines:
        err.print(f"{name}/{old} and {name}/{new} are the same, except perhaps for their notes")


def _shares(release: Release) -> str:
    return str(Allocation.from_rows(release.allocation))
