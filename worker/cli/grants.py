"""Scripts that give a database role exactly what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.output import check_database
from worker.storage import grants as storage
from worker.storage.engine import transaction

grants = typer.Typer(
    help="Print SQL that lets a database role produce jobs, or read results.", no_args_is_help=True
)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="It must exist; see docs/sql.md.")]


@grants.command("producer")
def producer(role: Role) -> None:
    """Print SQL after which ROLE may enqueue jobs and read its own rows, and nothing else."""
    check_database()
    with transaction() as connection:
        typer.echo(storage.producer_script(connection, role), nl=False)


@grants.command("reader")
def reader(role: Role) -> None:
    """Print SQL after which ROLE may read results, usage, alerts and prompts, and nothing else."""
    check_database()
    with transaction() as connection:
        typer.echo(storage.reader_script(connection, role), nl=False)
