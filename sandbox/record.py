"""`python -m sandbox.record [NAME …]`: record a reply to sample inputs, for every prompt version.

The samples go through the code that builds a job's request. The replies come from the simulated
Claude, always the same ones, or with `--live` from the API at `ANTHROPIC_BASE_URL`, with
`ANTHROPIC_API_KEY`, at its price. Only replies that the task's checks accept are kept. Versions
that have recordings already are left alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import httpx2
from anthropic import AnthropicError

import tasks
from sandbox.claude.client import SimulatedClaude
from sandbox.samples import load_samples
from worker.claude.clients import ClientStack
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.prompts import PromptLibrary
from worker.engine.recordings import (
    LEAST_CASES,
    Recording,
    Replayed,
    choices,
    path_of,
    replay,
    save_recordings,
)
from worker.engine.registry import Registry
from worker.errors import ClaudeJobsError, ConfigurationError
from worker.settings import PROJECT

SEED = 1
CASES = 6


def main() -> int:
    """Record what was asked for; returns 1 if a reply was not accepted."""
    options = _options()
    try:
        registry = Registry(tasks.registry, PromptLibrary.load(options.prompts))
        wanted = _wanted(registry, options)
        if not wanted:
            print("nothing to do: every version has recordings (--again records them anew)")
            return 0
        with _claude(live=options.live) as clients:
            return max(_record(choice, Preparer(registry), clients, options) for choice in wanted)
    except (ClaudeJobsError, AnthropicError, httpx2.HTTPError, ValueError) as error:
        sys.stderr.write(f"record: {error}\n")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.record", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="prompts (default: all)")
    parser.add_argument("--live", action="store_true", help="ask the real Claude; costs money")
    parser.add_argument("--again", action="store_true", help="replace recordings that exist")
    parser.add_argument("--cases", type=int, default=CASES, help=f"a version (default: {CASES})")
    parser.add_argument(
        "--prompts", type=Path, default=PROJECT / "prompts", help="the folder of prompts"
    )
    options = parser.parse_args()
    if options.cases < LEAST_CASES:
        parser.error(f"--cases must be {LEAST_CASES} or more")
    return options


def _wanted(registry: Registry, options: argparse.Namespace) -> list[Choice]:
    found = list(choices(registry))
    names = {choice.prompt.name for choice in found}
    if unknown := sorted(set(options.names) - names):
        raise ConfigurationError(
            f"no task has a prompt {unknown[0]!r}; there are {', '.join(sorted(names))}"
        )
    return [
        choice
        for choice in found
        if choice.prompt.name in (options.names or names)
        and (options.again or not path_of(options.prompts, choice.prompt).exists())
    ]


@contextmanager
def _claude(*, live: bool) -> Iterator[ClientStack]:
    """Clients of the one that is asked."""
    if not live:
        with SimulatedClaude(seed=SEED) as claude, closing(ClientStack("any", claude.url)) as stack:
            yield stack
        return
    api_key = os.environ.get("ANTHROPIC_API_KEY")
    if not api_key:
        raise ConfigurationError("ANTHROPIC_API_KEY is not set: --live asks the real Claude")
    base_url = os.environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
    with closing(ClientStack(api_key, base_url)) as stack:
        yield stack


def _record(
    choice: Choice, preparer: Preparer, clients: ClientStack, options: argparse.Namespace
) -> int:
    name = f"{choice.prompt.name}/{choice.prompt.version}"
    kept: list[Recording] = []
    refused: list[Replayed] = []
    for number, values in enumerate(_samples(choice.task.name, options.cases), start=1):
        case = f"sample-{number:02}"
        request = preparer.prepare_input(choice, values).request
        with clients.checkout() as client:
            answer = client.sdk.messages.with_raw_response.create(
                **request.parameters(), timeout=choice.task.call_timeout
            )
            body = answer.http_response.json()
        # An id of the API's is new each time: left as it is, no file would ever be the same.
        origin = {"id": f"msg_{'live' if options.live else 'simulated'}_{number:02}"}
        recording = Recording(case=case, input=values, reply=body | origin)
        (replayed,) = replay(preparer, choice, [recording])
        if replayed.failure is None:
            kept.append(recording)
        else:
            refused.append(replayed)
    for each in refused:
        sys.stderr.write(f"record: left out: {each}\n")
    if len(kept) < LEAST_CASES:
        sys.stderr.write(f"record: {name}: {len(kept)} replies accepted, nothing written\n")
        return 1
    path = save_recordings(options.prompts, choice.prompt, kept)
    print(f"{name}: {len(kept)} replies in {os.path.relpath(path)}")
    return 1 if refused else 0


def _samples(task: str, cases: int) -> Iterator[dict[str, object]]:
    """From all over the file: neighbours are often about the same text."""
    try:
        samples = load_samples(task)
    except FileNotFoundError:
        raise ConfigurationError(
            f"task {task} has no sample inputs: add sandbox/samples/{task}.jsonl, an input a line"
        ) from None
    step = max(1, len(samples) // cases)
    return islice(iter(samples[::step]), cases)


if __name__ == "__main__":
    sys.exit(main())
