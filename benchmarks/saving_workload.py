"""The workload that shows what is saved: an hour of jobs, made from a seed.

Its parameters were chosen before anything was measured, for these reasons:

- all four shipped tasks that have samples, as many jobs of each, on the models that they ship with:
  nothing is left out because it saves little;
- a thousand jobs in an hour, half of them one by one, half in twelve bursts of one task each, such
  as imports and nightly lists are;
- a fifth repeats an input that came before. Of 100,000 requests to one service in production 18 %
  were exact repeats (reported by VentureBeat in January 2026). Which one is repeated follows Zipf's
  law with exponent 1, by rank of first appearance;
- three tenths can wait for a batch: that was asked for;
- four worked examples in each system prompt: the documentation of Claude advises three to five.
  They are the first samples of the task with what the simulated Claude answers; jobs are made of
  the others. Without examples, three of the four shipped prompts are too short to be cached.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from anthropic import Anthropic

from sandbox.samples import load_samples
from sandbox.service import PROJECT
from worker.claude.reply import read_message
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.engine.prompts import Prompt, PromptLibrary

#: Where the input's main text is, to which something is added that makes it another input.
TEXT_FIELD = {
    "analyze_document": "document",
    "classify_ticket": "body",
    "extract_entities": "text",
    "summarize_text": "text",
}
TASKS = tuple(TEXT_FIELD)
HOUR = 3600.0
#: The version that the workload runs on: above all that are shipped.
VERSION = "1000.0"


@dataclass(frozen=True)
class Workload:
    """How much of what comes; shares are of all jobs."""

    jobs: int = 1000
    repeats: float = 0.2
    deferrable: float = 0.3
    in_bursts: float = 0.5
    bursts: int = 12
    examples: int = 4
    seed: int = 8


@dataclass(frozen=True)
class Arrival:
    """A job: when it comes, in seconds of the hour, and whether it can wait for a batch."""

    at: float
    task: str
    values: Mapping[str, Any]
    deferrable: bool


def arrivals(workload: Workload) -> list[Arrival]:
    """The jobs in the order in which they come; the same for the same workload."""
    rng = random.Random(workload.seed)
    inputs = {task: _Inputs(task, workload.examples, rng) for task in TASKS}
    made = []
    for at, task in sorted(_times(workload, rng)):
        values = inputs[task].next(repeat=rng.random() < workload.repeats)
        made.append(Arrival(at, task, values, rng.random() < workload.deferrable))
    return made


def _times(workload: Workload, rng: random.Random) -> Iterator[tuple[float, str]]:
    in_bursts = round(workload.jobs * workload.in_bursts)
    starts = [rng.uniform(0, HOUR) for _ in range(workload.bursts)]
    for number in range(workload.jobs):
        if number < in_bursts:
            burst = number % workload.bursts
            yield starts[burst], TASKS[burst % len(TASKS)]
        else:
            yield rng.uniform(0, HOUR), TASKS[number % len(TASKS)]


class _Inputs:
    """Inputs of a task: new ones, or such as came before."""

    def __init__(self, task: str, examples: int, rng: random.Random) -> None:
        self._samples = load_samples(task)[examples:]
        self._field = TEXT_FIELD[task]
        self._rng = rng
        self._numbers = count(1)
        self._seen: list[dict[str, Any]] = []

    def next(self, *, repeat: bool) -> dict[str, Any]:
        if repeat and self._seen:
            weights = [1 / rank for rank in range(1, len(self._seen) + 1)]
            return self._rng.choices(self._seen, weights)[0]
        number = next(self._numbers)
        sample = self._samples[number % len(self._samples)]
        text = f"{sample[self._field]}\n\nReference number {number}."
        self._seen.append({**sample, self._field: text})
        return self._seen[-1]


def write_prompts(folder: Path, preparer: Preparer, registry: Any, url: str, examples: int) -> None:
    """A folder of the shipped prompts and, of each task, the version that the workload runs on."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROJECT / "prompts", folder)
    with Anthropic(api_key="simulated", base_url=url, max_retries=0) as client:
        for name in TASKS:
            prompt = registry.prompts.get(name)
            choice = Choice(registry[name], prompt, prompt.file.model)
            shown = []
            for values in load_samples(name)[:examples]:
                prepared = preparer.prepare_input(choice, values)
                raw = client.messages.with_raw_response.create(
                    **prepared.request.parameters(), timeout=60
                )
                reply = read_message(raw.http_response.content, headers={}, latency_ms=0)
                shown.append((prepared.request.user, reply.text))
            (folder / name / f"{VERSION}.toml").write_text(_version(prompt, shown))


def _version(prompt: Prompt, shown: Sequence[tuple[str, str]]) -> str:
    """A version with worked examples, kept in the prompt cache; its strings are JSON's."""
    examples = "".join(
        f"\n<example>\n{asked}\n\nReply:\n{reply}\n</example>\n" for asked, reply in shown
    )
    if examples:
        # Texts of people: what looks like a template in them is none.
        examples = f"\n# Examples\n{{% raw %}}{examples}{{% endraw %}}"
    content = prompt.file.model_dump(mode="json", exclude_none=True)
    content |= {"cache": "5m", "system": prompt.file.system + examples}
    return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in content.items())


def library(folder: Path) -> PromptLibrary:
    """The prompts of the workload."""
    return PromptLibrary.load(folder)
