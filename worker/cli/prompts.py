"""The prompts: their versions, and which of them serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import Connection

from worker.cli.output import as_json, check_database, err, out, table, when
from worker.cli.promptdiff import difference
from worker.engine import evidence, promptlock, releasing
from worker.engine.allocation import POINTS, percent_of
from worker.engine.catalog import load
from worker.engine.evidence import Evidence
from worker.engine.pins import SHORT_HASH
from worker.engine.prompts import Prompt, PromptLibrary, get_prompts, version_key
from worker.engine.registry import load_registry
from worker.errors import UnknownPromptVersion
from worker.settings import get_prompts_dir
from worker.storage import releases
from worker.storage.engine import transaction
from worker.storage.releases import Release

Name = Annotated[str, typer.Argument(metavar="NAME", help="The prompt, as its folder is named.")]


def lock() -> None:
    """Record the hash of every new prompt version; from then on it is immutable."""
    added = promptlock.lock(get_prompts(), get_prompts_dir())
    for name in added:
        err.print(f"locked {name}")
    if not added:
        err.print("nothing to do: every version is locked")


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


def list_versions(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List every version of every prompt: its share of the traffic, and what speaks for it.

    Also those that serve and are not in this folder, or whose file was edited since.
    """
    check_database()
    library = get_prompts()
    with transaction() as connection:
        current = {release.prompt: release for release in releases.serving(connection)}
        listed = sorted(
            [*library, *_only_stored(connection, library, current.values())],
            key=lambda prompt: (prompt.name, version_key(prompt.version)),
        )
        found = [evidence.gather(connection, prompt, None) for prompt in listed]
    columns = ("prompt", "version", "serves>", "since", "test", "read>", "bad>", "model", "content")
    shown = table(*columns)
    rows = []
    for each in found:
        prompt = each.prompt
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
                "evidence": each.as_json(),
                "sha256": prompt.sha256,
                **prompt.file.model_dump(exclude={"system", "template", "notes"}),
            }
        )
        shown.add_row(
            escape(prompt.name),
            escape(prompt.version),
            f"{percent_of(points)} %" if points else "-",
            when(since) if since or not points else "highest",
            _test(each),
            str(each.verdicts.samples or "-"),
            str(each.verdicts.unacceptable_samples or "-"),
            escape(prompt.file.model),
            prompt.sha256[:SHORT_HASH],
            style=None if points else "dim",
        )
    if json:
        typer.echo(as_json(rows))
    else:
        out.print(shown)


def _only_stored(
    connection: Connection, library: PromptLibrary, serving: Iterable[Release]
) -> Iterator[Prompt]:
    """What serves although this folder has no such file, or one that says something else."""
    for release in serving:
        for version, sha256 in release.sha256.items():
            here = library.has(release.prompt, version) and library.get(release.prompt, version)
            if not here or here.sha256 != sha256:
                with suppress(UnknownPromptVersion):
                    yield load(connection, release.prompt, version, sha256)


def _test(found: Evidence) -> str:
    if found.run is None:
        return "-"
    return f"{'passed' if found.run['passed'] else 'failed'}, {found.run['mode']}"


def diff(name: Name, old: str, new: str) -> None:
    """Show what differs between two versions of a prompt."""
    library = get_prompts()
    lines = list(difference(library.get(name, old), library.get(name, new)))
    for line in lines:
        out.print(line)
    if not lines:
        err.print(f"{name}/{old} and {name}/{new} are the same, except perhaps for their notes")
