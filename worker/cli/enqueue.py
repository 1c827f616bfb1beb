"""Enqueueing: one job from the command line, thousands from a file."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from worker.cli.bulk import Enqueued, enqueue_lines, print_summary, wait_for_all
from worker.cli.output import as_json, check_database, err
from worker.cli.watch import show_live
from worker.engine.registry import AnyTask, load_registry
from worker.errors import InvalidInput

TaskName = Annotated[str, typer.Argument(metavar="TASK")]
User = Annotated[str | None, typer.Option("--user", help="On whose behalf, for accounting.")]
Priority = Annotated[int, typer.Option(help="0 first.")]
Version = Annotated[str | None, typer.Option(help="Pin a prompt version.")]
Model = Annotated[str | None, typer.Option(help="Override the prompt's model.")]
Webhook = Annotated[
    str | None, typer.Option(metavar="URL", help="Told when a job has ended; see docs/webhooks.md.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Ask Claude, whatever was answered before.")
]
Lane = Annotated[
    str | None,
    typer.Option(
        metavar="interactive|batch",
        help="batch: half the price, within a day. By default, what the deadline allows.",
    ),
]
Deadline = Annotated[str | None, typer.Option(help="Not tried again after this ISO 8601 time.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the outcome.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most.")]


def enqueue(
    task: TaskName,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE|-|KEY=VALUE",
            help="A JSON file, `-` for JSON on stdin, or one field; KEY=@FILE reads a text file. "
            "Several are merged.",
        ),
    ] = None,
    user: User = None,
    priority: Priority = 100,
    lane: Lane = None,
    run_at: Annotated[str | None, typer.Option(help="Not before this ISO 8601 time.")] = None,
    deadline: Deadline = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key returns the same job.")
    ] = None,
    prompt_version: Version = None,
    model: Model = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Receive the reply as it is written, to be watched.")
    ] = False,
    webhook_url: Webhook = None,
    no_cache: NoCache = False,
    wait: Wait = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the reply as it is written; implies --stream.")
    ] = False,
    timeout: Timeout = None,
) -> None:
    """Enqueue one job and print its id – or, with --wait or --watch, its output."""
    kind = load_registry()[task]
    values = _read_input(kind, input or [])
    check_database()
    job = kind.enqueue(
        **values,
        user_id=user,
        priority=priority,
        lane=lane,
        run_at=_parse_time("--run-at", run_at),
        deadline=_parse_time("--deadline", deadline),
        idempotency_key=idempotency_key,
        prompt_version=prompt_version,
        model=model,
        stream=stream or watch,
        webhook_url=webhook_url,
        cache=not no_cache,
    )
    if not wait and not watch:
        typer.echo(job.id)
        return
    err.print(f"job {job.id}")
    if watch:
        show_live(job.id, timeout)
        return
    typer.echo(as_json(job.wait(timeout).model_dump(mode="json")))


def enqueue_file(
    task: TaskName,
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="`-` for stdin.")],
    user: User = None,
    priority: Priority = 100,
    lane: Lane = None,
    deadline: Deadline = None,
    prompt_version: Version = None,
    model: Model = None,
    idempotency_prefix: Annotated[
        str | None,
        typer.Option(help="Line N gets the key PREFIX:N, so that a second run adds nothing."),
    ] = None,
    webhook_url: Webhook = None,
    no_cache: NoCache = False,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Enqueue a job for every line of a JSON Lines file.

    Lines that do not fit the task are reported by number and left out; all others are enqueued.
    Exits with 1 if a line was left out or, with --wait, if a job did not succeed.
    """
    kind = load_registry()[task]
    check_database()
    options = {
        "user_id": user,
        "priority": priority,
        "lane": lane,
        "deadline": _parse_time("--deadline", deadline),
        "prompt_version": prompt_version,
        "model": model,
        "webhook_url": webhook_url,
        "cache": not no_cache,
    }
    kind.check_options(options)
    done = enqueue_lines(kind, _open(file), options, idempotency_prefix)
    _report(done)
    succeeded = True
    if wait and done.ids:
        succeeded = wait_for_all(done.ids, timeout)
        print_summary(done.ids)
    if done.rejected or not succeeded:
        raise typer.Exit(1)


def _report(done: Enqueued) -> None:
    for number, reason in done.rejected[:20]:
        err.print(f"line {number}: {escape(reason)}", style="red")
    if len(done.rejected) > 20:
        err.print(f"… and {len(done.rejected) - 20} more lines", style="red")
    rate = len(done.ids) / done.seconds if done.seconds else 0
    err.print(
        f"{len(done.ids):,} jobs enqueued in {done.seconds:.1f} s ({rate:,.0f}/s), "
        f"{len(done.rejected):,} lines left out"
    )


def _open(name: str) -> Any:
    if name == "-":
        return sys.stdin.buffer
    path = Path(name)
    if not path.is_file():
        raise InvalidInput(f"{name}: no such file")
    return path.open("rb")


def _read_input(task: AnyTask, sources: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for source in sources:
        key, equals, value = source.partition("=")
        if equals and key in task.fields:
            values[key] = _field(task, key, value)
        elif equals and key.isidentifier() and not Path(source).exists():
            raise InvalidInput(
                f"{task.name} has no field {key!r}; it has {', '.join(sorted(task.fields))}"
            )
        else:
            values.update(_json_object(source))
    return values


def _field(task: AnyTask, key: str, value: str) -> Any:
    if value.startswith("@"):
        try:
            return Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{key}: cannot read {value[1:]}: {error}") from None
    if task.input.model_fields[key].annotation is str:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _json_object(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {source}: {error}") from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{source} must hold a JSON object with the task's fields")
    return values


def _parse_time(option: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidInput(
            f"{option} {value!r} is not an ISO 8601 time such as 2027-01-31T09:00:00+01:00"
        ) from None
    return parsed if parsed.tzinfo else parsed.astimezone()
