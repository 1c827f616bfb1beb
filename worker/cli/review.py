"""`claude-jobs prompts review`: have people read what a prompt version writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from worker.cli.bulk import print_summary, wait_for_all
from worker.cli.operate import person
from worker.cli.output import check_database, err
from worker.engine.registry import load_registry
from worker.errors import ConfigurationError, InvalidInput
from worker.review import collected, generation, inputs
from worker.review.subject import Subject, choose_subject
from worker.settings import get_settings
from worker.storage import fleet, review_samples, reviews
from worker.storage.engine import transaction

if TYPE_CHECKING:
    from worker.storage.review_samples import NewSample
from worker.storage.reviews import Review

#: Inputs unless --samples says otherwise, and how many there may be: reviewers read them all.
SAMPLES, MOST_SAMPLES = 15, 100


def review(
    name: Annotated[str | None, typer.Argument(help="The prompt.")] = None,
    version: Annotated[str | None, typer.Argument(help="The version to be judged.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The version to compare with.  [default: what serves now]"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task that runs it, if several use the prompt.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_SAMPLES, help=f"How many inputs.  [default: {SAMPLES}, or all of FILE]"
        ),
    ] = None,
    inputs_file: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE.jsonl", help="Inputs, a JSON object a line."),
    ] = None,
    from_jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_SAMPLES, metavar="N", help="Take the inputs of N recent jobs instead."
        ),
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Who judges; otherwise the page asks.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Generate the outputs only.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Write everything to one file, to be sent around; no server."
        ),
    ] = None,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="With --export: name the sides, and show the verdicts."),
    ] = False,
    import_file: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE.json", help="Store verdicts from an exported file."),
    ] = None,
) -> None:
    """Generate outputs of VERSION and of a baseline, and serve a page on which people compare them.

    The outputs are made by ordinary jobs. Run it again to go on where you stopped: what was
    generated is not generated again, and verdicts are kept in Postgres.
    """
    check_database()
    if import_file is not None:
        _import(import_file)
        return
    if name is None or version is None:
        raise InvalidInput(
            "which prompt, and which version? `claude-jobs prompts review NAME VERSION`"
        )
    if reveal and export is None:
        raise InvalidInput("--reveal belongs to --export: the page tells by itself in the end")
    _require_pages()
    with transaction() as connection:
        subject = choose_subject(
            connection, load_registry(), name, version, baseline=baseline, task=task
        )
    new = _inputs(subject, samples, inputs_file, from_jobs)
    opened = _generate(subject, new)
    if export is not None:
        _export(opened, subject, export, revealed=reveal)
    elif not no_serve:
        _serve(opened, subject, reviewer, port)


def _inputs(
    subject: Subject, samples: int | None, inputs_file: Path | None, from_jobs: int | None
) -> list[NewSample]:
    if from_jobs is not None and (samples is not None or inputs_file is not None):
        raise InvalidInput("--from-jobs N stands alone: leave out --samples and --inputs")
    if inputs_file is not None:
        return inputs.from_file(subject.task, inputs_file, samples or MOST_SAMPLES)
    if from_jobs is None:
        return inputs.from_samples(subject.task, samples or SAMPLES)
    with transaction() as connection:
        return inputs.from_jobs(connection, subject.task, from_jobs)


def _generate(subject: Subject, new: list[NewSample]) -> Review:
    with transaction() as connection:
        opened, samples = generation.begin(connection, subject, new, person())
        waiting = review_samples.unfinished_jobs(connection, opened.id)
        live = fleet.progress(connection, silent=get_settings().lease_seconds).live_workers
    err.print(f"review of {escape(opened.title)}: {len(samples)} samples")
    if waiting:
        if not live:
            err.print("no worker is running: these jobs wait for one", style="yellow")
        try:
            succeeded = wait_for_all(waiting, None)
        except KeyboardInterrupt:
            err.print("stopped waiting; the jobs go on, and the same command goes on with them")
            raise typer.Exit(130) from None
        print_summary(waiting)
        if not succeeded:
            err.print(
                "what failed is shown as that; to replace it before somebody judges it, "
                "`claude-jobs requeue ID` and run this again"
            )
    with transaction() as connection:
        review_samples.keep_outcomes(connection, opened.id)
    return opened


def _serve(opened: Review, subject: Subject, reviewer: str | None, port: int) -> None:
    from worker.review.server import Server
    from worker.review.serving import serve
    from worker.review.verdicts import clean_name

    name = None if reviewer is None else clean_name(reviewer)
    server = Server(opened, subject.task, name, suggested=person())

    def announce(url: str) -> None:
        err.print("the page is at the address below, until Ctrl-C; whoever has it can judge")
        typer.echo(url)

    serve(server.app, port, announce)
    state = server.state()
    judged = {each.sample for each in state.verdicts}
    err.print(
        f"{len(judged)} of {len(state.samples)} samples judged by "
        f"{len({each.reviewer for each in state.verdicts})} reviewers"
    )


def _export(opened: Review, subject: Subject, path: Path, *, revealed: bool) -> None:
    from worker.review.pages import State, export_page

    with transaction() as connection:
        samples = review_samples.samples(connection, opened.id)
        verdicts = reviews.verdicts(connection, opened.id)
    page = export_page(State(opened, subject.task, samples, verdicts), revealed=revealed)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None
    err.print(f"wrote {escape(str(path))}: {len(samples)} samples, {len(page.encode()):,} bytes")


def _import(path: Path) -> None:
    found = collected.read_collected(path)
    with transaction() as connection:
        opened, kept = collected.keep_collected(connection, found)
    err.print(
        f"review of {escape(opened.title)}: {kept} new verdicts of {escape(found.reviewer)}, "
        f"{len(found.verdicts) - kept} known already"
    )


def _require_pages() -> None:
    try:
        import starlette
        import uvicorn
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"reviews need the package {error.name}: pip install 'claude-jobs[prompts]'"
        ) from None
    del starlette, uvicorn
