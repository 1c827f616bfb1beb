"""`claude-jobs report`: the week's review, in the terminal, as JSON or as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from worker.cli.output import as_json, check_database, err
from worker.cli.reporttables import print_review
from worker.errors import ConfigurationError, InvalidInput
from worker.report.period import choose_period
from worker.storage.engine import transaction


def report(
    weekly: Annotated[
        bool, typer.Option("--weekly", help="The week's review, the only report there is.")
    ] = True,
    week: Annotated[
        str | None,
        typer.Option(
            metavar="2026-W47", help="The ISO week.  [default: the last one that is over]"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The seven days that end with this one, in UTC."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write a page that loads nothing, to be sent around."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Review a week: what was spent, what changed it, what was saved, and what to look at.

    Days are UTC's. The week is compared with the one before it, and the change is explained by
    the number of jobs and by the prompt versions that were released.
    """
    from worker.report.collect import collect  # with the price list: 50 ms

    if json and html is not None:
        raise InvalidInput("--json and --html are two forms of one report: give one of them")
    period = choose_period(week, until, datetime.now(UTC).date())
    if html is not None:
        _require_charts()
    check_database()
    with transaction() as connection:
        review = collect(connection, period)
    if json:
        from worker.report.document import document

        typer.echo(as_json(document(review)))
    elif html is not None:
        from worker.report.page import render

        _write(html, render(review))
    else:
        print_review(review)


def _require_charts() -> None:
    try:
        import vl_convert  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigurationError(
            "the page's charts need the package vl-convert-python: "
            "`pip install 'claude-jobs[report]'`; without --html the same figures are printed"
        ) from None


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror or error}") from None
    err.print(f"wrote {escape(str(path))}: {len(page.encode()):,} bytes")
