"""The watchdog: which releases it watches, and what it has counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.cli.output import as_json, check_database, err, out, table, when
from worker.engine.baseline import METRICS, SHARES, Baseline
from worker.engine.watchdog import Tally
from worker.settings import get_settings
from worker.storage import watches as storage
from worker.storage.engine import transaction


def watches(
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 10,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show the releases that the watchdog watches or has watched, the newest first."""
    check_database()
    with transaction() as connection:
        rows = storage.list_watches(connection, limit=limit)
    if json:
        typer.echo(as_json([_facts(row) for row in rows]))
        return
    columns = ("release", "prompt", "new", "against", "state", "since", "replies>")
    listed = table(*columns, "not valid>", "refused, cut off>", "length>", "cost>")
    for row in rows:
        for version in row["versions"] or ["-"]:
            listed.add_row(
                str(row["release_id"]),
                escape(row["prompt"]),
                escape(version),
                escape(row["baseline"]["version"] or "nothing"),
                row["state"].replace("_", " "),
                when(row["started_at"]),
                f"{row['calls']:,}",
                *_counts(row, version),
                style=None if row["state"] == "watching" else "dim",
            )
    mode = get_settings().watchdog
    out.print(listed if rows else "no release has been watched")
    err.print(f"CLAUDE_JOBS_WATCHDOG={mode} here; what counts is what the workers have")


def _facts(row: RowMapping) -> dict[str, object]:
    """Without the baseline's single replies and the state of the bets."""
    baseline = Baseline(**row["baseline"])
    tallies = row["progress"].get("tallies", {})
    return {
        **{key: value for key, value in row.items() if key not in ("baseline", "progress")},
        "against": baseline.version,
        "baseline": {metric: baseline.sample(metric) for metric in METRICS},
        "counted": {
            version: {metric: (tally["calls"], tally["total"]) for metric, tally in counted.items()}
            for version, counted in tallies.items()
        },
    }


def _counts(row: RowMapping, version: str) -> Iterator[str]:
    """Each metric of the new version beside the old one's."""
    baseline = Baseline(**row["baseline"])
    counted = row["progress"].get("tallies", {}).get(version, {})
    for metric in METRICS:
        if metric not in counted:
            yield "-"
            continue
        mean = Tally(**counted[metric]).mean
        size, total = baseline.sample(metric)
        before = total / size if size else 0.0
        if metric in SHARES:
            yield f"{mean:.1%} ({before:.1%})" if size else f"{mean:.1%}"
        else:
            yield f"×{mean / before:.2f}" if before else "-"
