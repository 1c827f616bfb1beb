"""The loop that tells people what they should know: long replies, prices, spend, drift, releases.

Nothing of this is on a job's way. A job writes its usage row as ever; every few seconds one worker
of the fleet looks at the rows that ended since the last look, and raises alerts in the transaction
that marks those rows as looked at: a worker that dies in between has raised nothing and marked
nothing, and the next one does both. Posting alerts is another loop's business (`webhook.py`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from worker.engine.drift import History, Shift
from worker.engine.finding import Finding
from worker.engine.loops import Loop
from worker.engine.releasewatch import ReleaseWatcher
from worker.engine.task import DEFAULT_OUTPUT_BOUND
from worker.storage import alerts, inspection
from worker.storage.alerts import Raised
from worker.storage.engine import transaction
from worker.storage.inspection import EndedCall, Lengths, PromptVersion

log = structlog.get_logger(__name__)

_INTERVAL = 5.0
#: While a release that is new gets calls.
_SOON = 0.5
#: Calls per look: a transaction of some 50 ms. After a full one, the next follows at once.
_BATCH = 1000
#: The replies whose length says something about the prompt. Those that were cut off or did not fit
#: belong to them: without them, a prompt that rambles until nothing fits would look steady.
_TELLING = ("ok", "invalid_output", "truncated")


class AlertLoop(Loop):
    """Looks at calls that have ended, and at pauses; one worker at a time, whichever comes first.

    `bounds` holds the output tokens above which a call of a task is worth an alert; `watcher`
    compares what was released with what it replaced.
    """

    name = "alerts"

    def __init__(self, bounds: Mapping[str, int], watcher: ReleaseWatcher | None = None) -> None:
        super().__init__()
        self._bounds = bounds
        self._watcher = watcher

    def step(self) -> float:
        with transaction() as connection:
            if not inspection.try_lock(connection):
                return _pause()
            calls = inspection.take_ended_calls(connection, _BATCH)
            findings = [
                *long_replies(calls, self._bounds),
                *unpriced_models(calls),
                *_drifts(connection, calls),
                *_spend_pauses(connection),
                *(self._watcher.look(connection, calls) if self._watcher else ()),
            ]
            # In one order, so that two who raise the same alerts do not wait for each other.
            findings.sort(key=lambda found: (found.kind, found.subject))
            raised = [found.put(connection) for found in findings]
        announce(raised)
        if len(calls) == _BATCH:
            return 0.0
        return _SOON if self._watcher and self._watcher.is_eager else _pause()


def announce(raised: Iterable[Raised]) -> None:
    """Log alerts that are new; to be called after the transaction that raised them."""
    for alert in raised:
        if alert.new:
            log.warning(
                "alert",
                kind=alert.kind,
                subject=alert.subject,
                count=alert.count,
                summary=alert.message,
                id=str(alert.id),
            )


def long_replies(calls: Sequence[EndedCall], bounds: Mapping[str, int]) -> list[Finding]:
    """A finding for each task of which a call wrote more output tokens than its bound."""
    by_task: dict[str, list[EndedCall]] = defaultdict(list)
    for call in calls:
        if call.output_tokens > bounds.get(call.task, DEFAULT_OUTPUT_BOUND):
            by_task[call.task].append(call)
    findings = []
    for task, found in by_task.items():
        longest = max(found, key=lambda call: call.output_tokens)
        bound = bounds.get(task, DEFAULT_OUTPUT_BOUND)
        message = (
            f"a call wrote {longest.output_tokens:,} output tokens, the bound of {task} is "
            f"{bound:,}: see `claude-jobs show {longest.job_id}`, then mend the prompt or raise "
            "the task's output_bound"
        )
        details = _sample(longest) | {"output_tokens": longest.output_tokens, "bound": bound}
        findings.append(Finding("output_bound", task, message, details, len(found)))
    return findings


def unpriced_models(calls: Sequence[EndedCall]) -> list[Finding]:
    """A finding for each model whose replies have no known price."""
    by_model: dict[str, list[EndedCall]] = defaultdict(list)
    for call in calls:
        if call.unpriced:
            by_model[call.model].append(call)
    return [
        Finding(
            "unpriced_model",
            model,
            f"the price list does not know {model}, so its calls count as no cost at all: upgrade "
            "genai-prices, then run `claude-jobs usage reprice`",
            _sample(found[-1]),
            len(found),
        )
        for model, found in by_model.items()
    ]


def _drifts(connection: Connection, calls: Sequence[EndedCall]) -> list[Finding]:
    """Take in the lengths of replies; a finding for each prompt version that has shifted."""
    by_version: dict[PromptVersion, list[EndedCall]] = defaultdict(list)
    for call in calls:
        # A repair is asked something else, and a call with more room is there for its length.
        if call.complete and call.call == 1 and call.outcome in _TELLING:
            by_version[call.prompt, call.prompt_version].append(call)
    if not by_version:
        return []
    stored = inspection.stored_lengths(connection, list(by_version))
    findings, updated = [], {}
    for version, found in by_version.items():
        history = _history(stored.get(version))
        for call in found:
            if shift := history.observe(call.output_tokens):
                findings.append(_drift(call, shift))
        updated[version] = Lengths(history.reference, history.recent, history.calls)
    inspection.store_lengths(connection, updated)
    return findings


def _history(stored: Lengths | None) -> History:
    if stored is None:
        return History()
    return History(stored.reference, stored.recent, stored.calls)


def _drift(call: EndedCall, shift: Shift) -> Finding:
    subject = f"{call.prompt}/{call.prompt_version}"
    message = (
        f"replies are {shift.factor:.1f} times as long as they used to be: the median of the last "
        f"{shift.calls} calls is {shift.after[1]:,} output tokens, it was {shift.before[1]:,}: "
        "compare `claude-jobs usage profile`, and see whether the inputs or the model changed"
    )
    details = _sample(call) | {
        "factor": round(shift.factor, 3),
        "quartiles_before": shift.before,
        "quartiles_after": shift.after,
        "calls": shift.calls,
    }
    return Finding("length_drift", subject, message, details)


def _spend_pauses(connection: Connection) -> list[Finding]:
    paused_at = alerts.unreported_spend_pause(connection)
    if paused_at is None:
        return []
    message = (
        "Anthropic refused a call for a spend limit and everything is paused: raise the limit, "
        "then run `claude-jobs resume`"
    )
    details = {"paused_at": paused_at.isoformat()}
    # Never a repetition: between two pauses somebody thought that it was over.
    return [Finding("spend_pause", "all", message, details, repeat_seconds=0)]


def _sample(call: EndedCall) -> dict[str, Any]:
    """Where to look: no text of a prompt, an input or an output."""
    return {
        "job_id": None if call.job_id is None else str(call.job_id),
        "task": call.task,
        "model": call.model,
        "prompt": call.prompt,
        "prompt_version": call.prompt_version,
    }


def _pause() -> float:
    return _INTERVAL * random.uniform(0.7, 1.3)  # noqa: S311 – spreads the workers
