"""A run of ordinary jobs: what is asked, by whom, and at what price, is what production does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from worker.claude.pricing import price_book
from worker.claude.reply import Tokens
from worker.engine.catalog import register
from worker.engine.choose import Choice
from worker.engine.pins import pin_to
from worker.engine.prepare import Preparer
from worker.engine.prompts import Prompt
from worker.engine.recordings import Recording, load_recordings, path_of, save_recordings
from worker.engine.registry import AnyTask, Registry
from worker.errors import ConfigurationError, InvalidInput
from worker.evals.cases import Cases
from worker.evals.given import Given
from worker.evals.jobs import Ended, Jobs, alive
from worker.evals.report import Facts, Report
from worker.evals.run import CaseFailed, evaluate
from worker.evals.spending import Spending
from worker.storage import control
from worker.storage.engine import transaction

#: The task that judges rubrics.
JUDGE = "judge_output"

#: Cases that are answered at once; the jobs of their rubrics come on top.
CONCURRENCY = 8


class LiveRun:
    """One run of a prompt version's cases as jobs.

    Args:
        registry: the tasks and prompts of this process.
        task: whose checks apply.
        prompt: the version, of whose very content the jobs are.
        cases: the prompt's.
        max_cost: US dollars after which no more jobs are sent.
        folder: the folder of prompts, where each reply is recorded as it comes; None: nowhere.
        on_change: called whenever a job was sent or has ended.

    Raises:
        ConfigurationError: what is recorded already is not readable.
    """

    def __init__(
        self,
        registry: Registry,
        task: AnyTask,
        prompt: Prompt,
        cases: Cases,
        max_cost: Decimal,
        folder: Path | None = None,
        on_change: Callable[[LiveRun], None] = lambda run: None,
    ) -> None:
        self._registry = registry
        self._choice = Choice(task, prompt, prompt.file.model)
        self._cases = cases
        self.dataset = cases.of_version(prompt.version, live=True, judge=self._judge)
        self.spending = Spending(max_cost)
        self.jobs = Jobs(Preparer(registry), self.spending, lambda: on_change(self))
        self.recordings: dict[str, Recording] = {}
        self.recorded_in = None if folder is None else path_of(folder, prompt)
        self._recorded = load_recordings(folder, prompt) if folder else {}
        self._folder = folder
        self.answered = 0
        self.cancelled = 0
        self._facts: dict[str, Facts] = {}

    def check(self) -> None:
        """Check that the jobs can run, and leave the version for workers that do not have it.

        Raises:
            ConfigurationError: no worker lives, the task is paused, or replies cannot be recorded.
            InvalidInput: the model has no known price, so that no cap can be kept.
        """
        if self.recorded_in is not None:
            _require_writable(self.recorded_in)
        model = self._choice.model
        if price_book().cost_usd(model, Tokens(input=1, output=1)) is None:
            raise InvalidInput(
                f"{model} has no known price, so --max-cost cannot be kept: name the model in "
                "CLAUDE_JOBS_PRICES_FILE"
            )
        with transaction() as connection:
            _require_running(connection, self._choice)
            register(connection, [self._choice.prompt])

    def run(self) -> Report:
        """Send the jobs, judge their outputs, and say what was found.

        Whatever ends it early – Ctrl-C too – cancels the jobs that still run.
        """
        prompt = self._choice.prompt
        try:
            judged = asyncio.run(
                evaluate(
                    self._choice.task,
                    self.dataset,
                    self._answer,
                    self._facts,
                    concurrency=CONCURRENCY,
                )
            )
        finally:
            self.cancelled = self.jobs.cancel()
        passed = bool(judged) and all(case.passed for case in judged) and not self.jobs.capped
        return Report(
            prompt=prompt.name,
            version=prompt.version,
            prompt_sha256=prompt.sha256,
            cases_sha256=self._cases.sha256,
            mode="live",
            passed=passed,
            capped=self.jobs.capped,
            max_cost_usd=self.spending.cap,
            cost_usd=None if self.spending.unpriced else self.spending.known,
            cases=judged,
        )

    async def _answer(self, given: Given) -> dict[str, Any]:
        facts = self._facts[given.case] = Facts()
        ended = await self.jobs.run(self._choice, given.values, pin_to(self._choice.prompt))
        ended.note(facts)
        self.answered += 1
        if ended.output is None:
            raise CaseFailed(ended.reason)
        facts.warnings = ended.warnings
        self._record(recording(self._choice.prompt, given, ended))
        return ended.output

    def _record(self, new: Recording) -> None:
        """Each reply at once, as it was paid for; those of cases that brought none are kept."""
        self.recordings[new.case] = new
        if self._folder is not None:
            prompt = self._choice.prompt
            known = self._recorded | self.recordings
            names = [case.name or "" for case in self.dataset.cases]
            save_recordings(self._folder, prompt, [known[name] for name in names if name in known])

    async def _judge(self, rubric: str, given: Given, output: dict[str, Any]) -> tuple[bool, str]:
        task = self._registry[JUDGE]
        prompt = self._registry.prompts.get(task.prompt)
        values = {"rubric": rubric, "input": _pretty(given.values), "output": _pretty(output)}
        ended = await self.jobs.run(Choice(task, prompt, prompt.file.model), values, None)
        ended.note(self._facts[given.case], judge=True)
        if ended.output is None:
            raise CaseFailed(f"not judged: {ended.reason}")
        return ended.output["passed"], ended.output["reason"]


def recording(prompt: Prompt, given: Given, ended: Ended) -> Recording:
    """What is kept of a reply, as the body of the message that it came in.

    Postgres has the output and the tokens, not the body: that is put together anew.
    """
    call = ended.calls[-1]
    reply = {
        "type": "message",
        "role": "assistant",
        "model": call["model"],
        "content": [{"type": "text", "text": json.dumps(ended.output, ensure_ascii=False)}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": call["input_tokens"],
            "cache_read_input_tokens": call["cache_read_tokens"],
            "cache_creation_input_tokens": call["cache_write_5m_tokens"]
            + call["cache_write_1h_tokens"],
            "output_tokens": call["output_tokens"],
            "output_tokens_details": {"thinking_tokens": call["thinking_tokens"]},
        },
    }
    return Recording(case=given.case, prompt_sha256=prompt.sha256, input=given.values, reply=reply)


def _require_writable(path: Path) -> None:
    """Before the money is spent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        allowed = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:
        allowed = False
    if not allowed:
        raise ConfigurationError(f"cannot record replies in {path}: --no-record does without")


def _require_running(connection: Connection, choice: Choice) -> None:
    if not alive(connection):
        raise ConfigurationError(
            "no worker is alive, so nobody would run the jobs: start one first"
        )
    for pause in control.pauses(connection):
        if pause["scope"] == "all" or pause["name"] in (choice.task.name, choice.model):
            what = f"{pause['scope']} {pause['name']}".rstrip()
            raise ConfigurationError(
                f"{what} is paused ({pause['reason']}), so the jobs would wait: "
                "`claude-jobs resume` first"
            )


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
