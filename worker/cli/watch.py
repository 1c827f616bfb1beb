"""Watching a job being written: live in a terminal, line by line elsewhere.

What is written goes to stderr and the output to stdout, so `claude-jobs watch ID | jq` works.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from worker.cli.inspect import parse_id
from worker.cli.output import as_json, check_database, err
from worker.engine.events import Delta, Error, Partial, Result, Retrying
from worker.engine.following import follow
from worker.errors import JobCancelled, JobFailed, WaitTimeout

#: What a terminal would act upon. Claude's text may hold anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def watch(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    timeout: Annotated[float | None, typer.Option(help="Seconds to watch at most.")] = None,
) -> None:
    """Show a job as Claude writes it, then its output; it must have been enqueued with --stream.

    A job that is not streamed is waited for. Exits with 1 unless the job succeeds.
    """
    check_database()
    show_live(parse_id(job_id), timeout)


def show_live(job_id: UUID, timeout: float | None) -> None:
    """Follow the job to its end and print its output.

    Raises:
        JobFailed, JobCancelled: it did not succeed.
        WaitTimeout: it has not ended in `timeout` seconds; it goes on.
        JobNotFound, StorageUnavailable: as for `worker.engine.following.follow`.
    """
    screen = _Screen() if err.is_terminal else _Lines()
    with screen:
        end = _follow(job_id, timeout, screen)
    match end:
        case Result(output):
            typer.echo(as_json(output))
        case Error("cancelled"):
            raise JobCancelled(f"{job_id} was cancelled")
        case Error(_, error):
            raise JobFailed(f"{job_id} failed: {error.get('type')}: {error.get('message')}", error)
        case None:
            raise WaitTimeout(f"{job_id} has not ended after {timeout:g} s; it goes on")


def _follow(
    job_id: UUID, timeout: float | None, screen: _Screen | _Lines
) -> Result[dict[str, Any]] | Error | None:
    for event in follow(job_id, timeout=timeout):
        match event:
            case Delta(_, text):
                screen.add(text)
            case Partial(output):
                screen.show(output)
            case Retrying(_, _, reason):
                screen.clear(reason)
            case Result() | Error():
                return event
    return None


class _Lines:
    """For what is no terminal: the text as it comes, in between a line for each new beginning."""

    def __init__(self) -> None:
        self._in_line = False

    def add(self, text: str) -> None:
        sys.stderr.write(_printable(text))
        sys.stderr.flush()
        self._in_line = not text.endswith("\n")

    def show(self, output: dict[str, Any]) -> None:
        """The text was shown already."""

    def clear(self, reason: str) -> None:
        self._end_line()
        sys.stderr.write(f"retrying: {_printable(reason)}\n")

    def _end_line(self) -> None:
        if self._in_line:
            sys.stderr.write("\n")
        self._in_line = False

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._end_line()


class _Screen:
    """For a terminal: the JSON so far, or else the text; of what is too long, the end."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._text = ""
        self._output: dict[str, Any] | None = None
        self._live = Live(self, console=err, refresh_per_second=12, transient=True)

    def add(self, text: str) -> None:
        self._text += text

    def show(self, output: dict[str, Any]) -> None:
        self._output = output

    def clear(self, reason: str) -> None:
        self._text, self._output = "", None
        self._live.console.print(Text(f"retrying: {_printable(reason)}", style="yellow"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        seconds = time.monotonic() - self._started
        written = f"{len(self._text):,} characters" if self._text else "nothing written yet"
        yield Text(f"{written}, {seconds:.0f} s", style="dim")
        # Without the closing brackets, which Claude has not written and which fill small screens.
        body = self._text if self._output is None else as_json(self._output).rstrip(" \n]}")
        # Only as many characters as can be seen are wrapped: this is drawn many times a second.
        room = max(1, console.height - 2)
        seen = Text(_printable(body[-room * console.width :]))
        yield from seen.wrap(console, options.max_width)[-room:]

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def _printable(text: str) -> str:
    return _CONTROL.sub("�", text)
