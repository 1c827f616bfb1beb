"""`claude-jobs prompts test`: the cases of a prompt version, and whether they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from math import inf
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.operate import person
from worker.cli.output import check_database, err, money
from worker.cli.testreport import print_report
from worker.engine.registry import AnyTask, Registry, load_registry
from worker.errors import ClaudeJobsError, ConfigurationError, InvalidInput
from worker.settings import get_prompts_dir, get_settings
from worker.storage.engine import transaction
from worker.storage.prompt_tests import NewRun, insert_run

if TYPE_CHECKING:
    from worker.evals.live import LiveRun
    from worker.evals.report import Report

#: The modules of the extra that only this command needs.
_EXTRA = ("jmespath", "pydantic_ai", "pydantic_evals", "yaml")


def run_cases(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A prompt.")],
    version: Annotated[str | None, typer.Option(help="Default: the highest.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Whose input and checks apply, if several tasks use it.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask Claude, by jobs that your workers run; costs money.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="USD", help="Send no more jobs after that (CLAUDE_JOBS_PROMPT_TEST_MAX_COST)."
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option(help="Keep the replies of a live run for runs without --live.")
    ] = True,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JUnit XML.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JSON.")
    ] = None,
) -> None:
    """Run a prompt's cases: against recorded replies, or with --live against Claude.

    Exits with 1 if a case failed or the cost cap ended the run.
    """
    registry = load_registry()
    kind = task_of(registry, name, task)
    try:
        if live:
            report = _live(registry, kind, version, max_cost, record)
        else:
            report = _recorded(registry, kind, version)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            "`prompts test` needs the extra `prompts`: pip install 'claude-jobs[prompts]'"
        ) from None
    print_report(report)
    try:
        _store(report)
    finally:  # it may have cost money: neither loses the other
        _write(report, junit, json)
    if not report.passed:
        raise typer.Exit(1)


def task_of(registry: Registry, name: str, task: str | None) -> AnyTask:
    """The task whose input and checks belong to the prompt `name`: the one called so, or `task`.

    Raises:
        ConfigurationError: there is no such prompt.
        InvalidInput: it cannot be told, or `task` does not use the prompt.
    """
    users = [each for each in registry.values() if each.prompt == name]
    if task is not None:
        users = [each for each in users if each is registry[task]]
    if not users:
        registry.prompts.versions(name)  # says so if there is no such prompt
        raise InvalidInput(f"task {task} does not use the prompt {name}")
    if len(users) > 1 and name not in {each.name for each in users}:
        listed = ", ".join(sorted(each.name for each in users))
        raise InvalidInput(
            f"several tasks use the prompt {name}: choose one with --task ({listed})"
        )
    return next((each for each in users if each.name == name), users[0])


def _recorded(registry: Registry, task: AnyTask, version: str | None) -> Report:
    from worker.evals.cases import load_cases
    from worker.evals.recorded import run_recorded

    prompt, folder = registry.prompts.get(task.prompt, version), get_prompts_dir()
    return run_recorded(registry, task, prompt, load_cases(folder, task), folder)


def _live(
    registry: Registry, task: AnyTask, version: str | None, max_cost: float | None, record: bool
) -> Report:
    from worker.evals.cases import load_cases
    from worker.evals.live import LiveRun

    if max_cost is not None and not 0 < max_cost < inf:
        raise InvalidInput(f"--max-cost {max_cost:g}: give US dollars, more than 0")
    cap = get_settings().prompt_test_max_cost if max_cost is None else Decimal(str(max_cost))
    prompt, folder = registry.prompts.get(task.prompt, version), get_prompts_dir()
    cases = load_cases(folder, task)
    check_database()
    with _progress() as on_change:
        run = LiveRun(registry, task, prompt, cases, cap, folder if record else None, on_change)
        run.check()
        try:
            return run.run()
        except KeyboardInterrupt:
            err.print(f"interrupted: {run.cancelled} jobs cancelled")
            raise typer.Exit(130) from None
        finally:
            if run.recorded_in and run.recordings:
                where = relpath(run.recorded_in)
                err.print(f"{len(run.recordings)} replies recorded in {where}")


@contextmanager
def _progress() -> Iterator[Callable[[LiveRun], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("sending jobs", total=None)

        def update(run: LiveRun) -> None:
            spent = f"{money(run.spending.spent)} of {money(run.spending.cap)}"
            stranded = ", [red]no worker is alive[/]: start one" if run.jobs.stranded else ""
            progress.update(
                bar,
                description=f"{run.spending.in_flight} jobs run, {spent}{stranded}",
                completed=run.answered,
                total=len(run.dataset.cases),
            )

        yield update


def _write(report: Report, junit: Path | None, json: Path | None) -> None:
    from worker.evals.junit import as_junit

    try:
        if junit is not None:
            junit.write_bytes(as_junit(report))
        if json is not None:
            json.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write the report: {error}") from None


def _store(report: Report) -> None:
    """Keep the run for the release gate; a recorded run may go without a database."""
    run = NewRun(
        prompt=report.prompt,
        version=report.version,
        prompt_sha256=report.prompt_sha256,
        mode=report.mode,
        passed=report.passed,
        cases=len(report.cases),
        failures=len(report.failures),
        skipped=report.count("skipped"),
        cost_usd=report.cost_usd,
        cases_sha256=report.cases_sha256,
        report=report.as_stored(),
        run_by=person(),
    )
    try:
        check_database()
        with transaction() as connection:
            run_id = insert_run(connection, run)
    except ClaudeJobsError as error:
        if report.mode == "live":
            raise
        err.print(f"not stored: {escape(str(error))}")
    else:
        err.print(f"stored as test run {run_id}")
