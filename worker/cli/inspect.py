"""Looking: one job, many jobs, the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape
from sqlalchemy import RowMapping

from worker.claude.request import Request
from worker.cli.output import as_json, check_database, money, out, styled_state, table, when
from worker.engine.registry import load_registry
from worker.engine.reproduce import reproduce
from worker.errors import InvalidInput
from worker.storage import budgets, read
from worker.storage.engine import transaction
from worker.storage.models import STATES
from worker.storage.spending import dollars


def parse_id(value: str, what: str = "a job") -> UUID:
    """The id of a job, or of what else has one.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return UUID(value)
    except ValueError:
        raise InvalidInput(f"{value!r} is not {what} id (a uuid)") from None


def show(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    prompt: Annotated[
        bool, typer.Option("--prompt", help="The exact text that was sent to Claude.")
    ] = False,
    call: Annotated[
        str | None,
        typer.Option(metavar="ATTEMPT.CALL", help="With --prompt: this call, not the last one."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show a job: its state, its calls to Claude and what they cost, its output or its error."""
    check_database()
    if call is not None and not prompt:
        raise InvalidInput("--call goes with --prompt")
    with transaction() as connection:
        job, calls = read.job_details(connection, parse_id(job_id))
        if prompt:
            made = _which(calls, call)
            sent = reproduce(connection, load_registry(), dict(job), dict(made))
            _print_request(sent, json=json)
            return
        holding = budgets.holding(connection, job["id"], load_registry().models())
    if json:
        held = [dict(row) for row in holding]
        typer.echo(as_json({**job, "held_by": held, "calls": [dict(call) for call in calls]}))
        return
    facts = table("", "~")
    for name, value in [*_facts(job), *(("held by", held_by(row)) for row in holding)]:
        facts.add_row(f"[bold]{name}[/]", value)
    facts.show_header = False
    out.print(facts)
    if calls:
        out.print()
        out.print(_calls(calls))
    if job["error"]:
        out.print(f"\n[bold]error[/]\n{escape(as_json(job['error']))}")
    if job["output"] is not None:
        out.print(f"\n[bold]output[/]\n{escape(as_json(job['output']))}")


def held_by(row: RowMapping) -> str:
    """A budget that holds a job, and until when."""
    return escape(
        f"{row['label']}: ${dollars(row['amount_usd'])} is used up; until "
        f"{when(row['ends_at'])}, or until it is raised"
    )


def _which(calls: Sequence[RowMapping], wanted: str | None) -> RowMapping:
    """The call that was asked for, or else the one that the result came from: the last."""
    if not calls:
        raise InvalidInput("nothing was sent to Claude for this job yet")
    if wanted is None:
        return calls[-1]
    for row in calls:
        if wanted == f"{row['attempt']}.{row['call']}":
            return row
    made = ", ".join(f"{row['attempt']}.{row['call']}" for row in calls)
    raise InvalidInput(f"the job has no call {wanted!r}; it has {made}")


def _print_request(sent: Request, *, json: bool) -> None:
    parameters = sent.parameters()
    if json:
        typer.echo(as_json(parameters))
        return
    effort = f", effort {sent.effort}" if sent.effort else ""
    out.print(f"[bold]model[/] {sent.model}, max_tokens {sent.max_tokens:,}{effort}")
    out.print(f"\n[bold]system[/]\n{escape(sent.system)}")
    for message in parameters["messages"]:
        out.print(f"\n[bold]{message['role']}[/]\n{escape(message['content'])}")


def _facts(job: RowMapping) -> list[tuple[str, str]]:
    prompt = job["result_prompt_version"] or job["prompt_version"] or "the one that serves"
    variant = f" ({job['variant']})" if job["variant"] else ""
    model = job["result_model"] or job["model"] or "of the prompt"
    facts = [
        ("job", str(job["id"])),
        ("task", escape(job["task"])),
        ("state", styled_state(job["state"])),
        ("attempts", f"{job['attempt']} of {job['max_attempts']}, {job['rescues']} rescues"),
        ("user", escape(job["user_id"] or "-")),
        ("prompt", escape(f"{prompt}{variant}, model {model}")),
        ("created", when(job["created_at"])),
        ("started", when(job["started_at"])),
        ("finished", when(job["finished_at"])),
    ]
    if job["source_job_id"] is not None:
        facts.append(("result", f"from job {job['source_job_id']}, without a call"))
    if job["waits_for"] is not None and job["state"] == "queued":
        leader = job["leader"] or "one that is about to"
        facts.append(("waits", f"for job {leader}, which makes the identical request"))
    if not job["cache"]:
        facts.append(("cache", "not for this job"))
    return facts


def _calls(calls: Any) -> Any:
    listed = table(
        "call", "outcome", "model", "prompt", "input>", "output>", "cost>", "ms>", "request id"
    )
    for call in calls:
        listed.add_row(
            f"{call['attempt']}.{call['call']}",
            _outcome(call),
            escape(call["model"]),
            escape(f"{call['prompt']}/{call['prompt_version']}"),
            f"{call['input_tokens']:,}",
            f"{call['output_tokens']:,}",
            money(call["cost_usd"]),
            str(call["latency_ms"] or "-"),
            escape(call["request_id"] or "-"),
        )
    return listed


def _outcome(call: RowMapping) -> str:
    if call["source"] != "cache":
        return str(call["outcome"])
    return "shared" if call["coalesced"] else "cached"


def list_jobs(
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    state: Annotated[
        str | None, typer.Option(help=f"Only this state: {', '.join(STATES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the newest jobs."""
    check_database()
    if task is not None:
        load_registry()[task]
    if state is not None and state not in STATES:
        raise InvalidInput(f"unknown state {state!r}; there are {', '.join(STATES)}")
    with transaction() as connection:
        rows = read.recent_jobs(connection, task=task, state=state, limit=limit)
    if json:
        typer.echo(as_json([dict(row) for row in rows]))
        return
    listed = table("job", "task", "state", "attempts>", "user", "created", "cost>", "error")
    for row in rows:
        listed.add_row(
            str(row["id"]),
            escape(row["task"]),
            styled_state(row["state"]),
            str(row["attempt"]),
            escape(row["user_id"] or "-"),
            when(row["created_at"]),
            money(row["cost_usd"]),
            escape(row["error"] or ""),
        )
    out.print(listed if rows else "no jobs")


def tasks() -> None:
    """List the tasks: their input fields, and the prompt versions and model behind them."""
    registry = load_registry()
    listed = table("task", "input~", "prompt~", "model~", "attempts>", "timeout>")
    for name in sorted(registry):
        task = registry[name]
        versions = registry.prompts.versions(task.prompt)
        listed.add_row(
            name,
            ", ".join(task.input.model_fields),
            f"{task.prompt}/{versions[-1]}"
            + (f" (also {', '.join(versions[:-1])})" if versions[:-1] else ""),
            registry.prompts.get(task.prompt).file.model,
            str(task.max_attempts),
            f"{task.call_timeout:g} s",
        )
    out.print(listed)
