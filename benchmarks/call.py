"""What the engine adds to a call: CPU of one thread, beside the SDK called with the same request.

No queue and no database: the prompt is rendered, Claude called, the reply read, checked and priced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from anthropic import Anthropic

from benchmarks.contenders import KIND, SAMPLES, inputs
from benchmarks.measure import BenchmarkError, median
from sandbox.claude.client import SimulatedClaude
from worker.claude.call import Patience, call_claude
from worker.claude.clients import ClientStack
from worker.claude.inflight import CallControl, Watchdog
from worker.engine.choose import Choice
from worker.engine.judge import judge
from worker.engine.prepare import Preparer
from worker.engine.registry import load_registry
from worker.engine.settling import record_of
from worker.settings import get_settings

SDK, OURS = "the SDK's messages.create", "render, call, judge, price"
API_KEY = "simulated"
WARM_UP = 50

#: One call, for the input of that number.
Call = Callable[[int], None]


def measure(claude: SimulatedClaude, *, calls: int, rounds: int) -> dict[str, Any]:
    """Rounds of both in turn, each going first every other time, after one that does not count.

    CPU is user and system time of this process, which has one busy thread. The garbage collector
    works for both as it does in a worker.
    """
    claude.configure(latency=0.0)
    claude.reset()
    registry = load_registry()
    preparer, task = Preparer(registry), registry[KIND]
    prompt = registry.prompts.get(task.prompt)
    choice = Choice(task, prompt, prompt.file.model)
    given = inputs(calls)
    watchdog = Watchdog()
    watchdog.start()
    with (
        Anthropic(api_key=API_KEY, base_url=claude.url, max_retries=0) as sdk,
        closing(ClientStack(API_KEY, claude.url)) as clients,
    ):
        contenders = {
            SDK: _sdk(sdk, [preparer.prepare_input(choice, v).request.parameters() for v in given]),
            OURS: _ours(clients, watchdog, preparer, choice, given),
        }
        used: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name in (SDK, OURS) if number % 2 else (OURS, SDK):
                milliseconds = _round(contenders[name], calls if number else min(calls, WARM_UP))
                if number:
                    used[name].append(milliseconds)
    watchdog.stop()
    _require_same_requests(claude, calls=2 * (rounds * calls + min(calls, WARM_UP)))
    return {
        "task": KIND,
        "calls_per_round": calls,
        "rounds": rounds,
        "contenders": {name: median(values) for name, values in used.items()},
        "differences_ms": [ours - sdk for ours, sdk in zip(used[OURS], used[SDK], strict=True)],
        "ratios": [ours / sdk for ours, sdk in zip(used[OURS], used[SDK], strict=True)],
        "raw_ms": used,
    }


def _sdk(sdk: Anthropic, parameters: Sequence[dict[str, Any]]) -> Call:
    """The least that a program can do: what is sent is made beforehand, what comes is dropped."""

    def call(number: int) -> None:
        sdk.messages.create(**parameters[number])

    return call


def _ours(
    clients: ClientStack,
    watchdog: Watchdog,
    preparer: Preparer,
    choice: Choice,
    given: Sequence[dict[str, Any]],
) -> Call:
    """What an attempt does between its two transactions, and the price that the second writes."""
    task = choice.task
    patience = Patience(timeout=task.call_timeout, stall=get_settings().stall_seconds)

    def call(number: int) -> None:
        prepared = preparer.prepare_input(choice, given[number])
        control = CallControl()
        with watchdog.watching(control):
            reply = call_claude(clients, prepared.request, patience, control)
        judge(reply, task.output, task.checks, prepared.input, task.warnings)
        record_of(reply, "ok")

    return call


def _require_same_requests(claude: SimulatedClaude, *, calls: int) -> None:
    """Both sides sent the same bytes, once a call: a retry or another prompt would not compare."""
    ledger = claude.ledger()
    bodies = {entry.body_sha256 for entry in ledger}
    if len(ledger) != calls or len(bodies) != min(calls // 2, len(SAMPLES)):
        raise BenchmarkError(f"call: {len(ledger)} calls of {len(bodies)} kinds reached Claude")


def _round(call: Call, calls: int) -> float:
    """CPU milliseconds a call."""
    before = time.process_time()
    for number in range(calls):
        call(number)
    return (time.process_time() - before) * 1000 / calls
