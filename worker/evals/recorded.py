"""A run against recorded replies: no network, no database, the same every time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from worker.engine.choose import Choice, Unrunnable
from worker.engine.judge import Rejected
from worker.engine.prepare import Preparer
from worker.engine.prompts import Prompt
from worker.engine.recordings import (
    MalformedReply,
    Recording,
    Stale,
    load_recordings,
    replay,
    require_fresh,
)
from worker.engine.registry import AnyTask, Registry
from worker.evals.cases import Cases
from worker.evals.given import Given
from worker.evals.report import Facts, Report
from worker.evals.run import CaseFailed, evaluate


def run_recorded(
    registry: Registry, task: AnyTask, prompt: Prompt, cases: Cases, folder: Path
) -> Report:
    """Judge what is recorded of a prompt version.

    Args:
        registry: the tasks and prompts of this process.
        task: whose checks apply.
        prompt: the version, one of the task's prompt.
        cases: the prompt's.
        folder: the folder of prompts.

    Raises:
        ConfigurationError: the file of recordings is not readable.
    """
    choice = Choice(task, prompt, prompt.file.model)
    answers = _Answers(Preparer(registry), choice, load_recordings(folder, prompt))
    dataset = cases.of_version(prompt.version)
    judged = asyncio.run(evaluate(task, dataset, answers.answer, answers.facts, concurrency=1))
    return Report(
        prompt=prompt.name,
        version=prompt.version,
        prompt_sha256=prompt.sha256,
        cases_sha256=cases.sha256,
        mode="recorded",
        passed=bool(judged) and all(case.passed for case in judged),
        cases=judged,
    )


class _Answers:
    def __init__(
        self, preparer: Preparer, choice: Choice, recordings: dict[str, Recording]
    ) -> None:
        self._preparer = preparer
        self._choice = choice
        self._recordings = recordings
        self.facts: dict[str, Facts] = {}

    async def answer(self, given: Given) -> dict[str, Any]:
        recording = self._recordings.get(given.case)
        prompt = self._choice.prompt
        command = f"run `claude-jobs prompts test {prompt.name} --version {prompt.version} --live`"
        if recording is None:
            raise CaseFailed(f"no reply is recorded: {command}")
        try:
            require_fresh(recording, self._choice, given.values)
            reply, accepted = replay(self._preparer, self._choice, recording, checks=False)
        except Stale as stale:
            raise CaseFailed(f"{stale}: {command}") from None
        except (Unrunnable, Rejected) as error:
            raise CaseFailed(error.failure.message or error.failure.summary) from None
        except MalformedReply as error:
            raise CaseFailed(f"the recorded reply is no message: {error}") from None
        tokens = reply.tokens
        self.facts[given.case] = Facts(
            input_tokens=tokens.input
            + tokens.cache_read
            + tokens.cache_write_5m
            + tokens.cache_write_1h,
            output_tokens=tokens.output,
            warnings=accepted.warnings,
        )
        return accepted.output.model_dump(mode="json")
