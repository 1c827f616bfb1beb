"""A seeded mix of jobs of which every fifth call goes wrong, and what must come of each.

What strikes a job is drawn beforehand and scripted for it alone. So the calls that it makes, how
they are booked and how it ends do not depend on which worker is faster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal
from uuid import UUID

from tests.acceptance.taxonomy import (
    API_ERROR,
    CUT,
    GARBLED,
    INVALID,
    LATE,
    OK,
    OVERLOADED,
    RATE_LIMITED,
    REFUSED,
    TIMEOUT,
    TRUNCATED,
    Call,
)

#: The share of calls that a fault strikes, and how many may strike one job.
RATE = 0.2
MOST_FAULTS = 3
#: More than `MOST_FAULTS` can use up: what fails, fails for its own reason.
MAX_ATTEMPTS = 5

#: Not extract_entities, whose calls time out soon in `quick.py`.
TASKS = ("summarize_text", "classify_ticket", "analyze_document")

Follows = Literal[
    "nothing",  # the reply is good as it is
    "repair",  # one more call in the same attempt
    "retry",  # another attempt
    "snooze",  # another claim of the same attempt
    "end",  # the job fails
]


@dataclass(frozen=True)
class Kind:
    """A way in which a call goes wrong, how it is booked, and what follows."""

    name: str
    fault: dict[str, Any]
    call: Call
    follows: Follows
    wait: float = 0.0
    tasks: tuple[str, ...] = TASKS


_WRONG_CATEGORY = json.dumps(
    {
        "category": "none of these",
        "urgency": "low",
        "sentiment": "neutral",
        "summary": "s",
        "needs_human": False,
    }
)

KINDS = (
    Kind("overloaded", {"status": 529}, OVERLOADED, "retry"),
    Kind("overloaded, says when", {"status": 529, "headers": {"retry-after": "0.4"}},
         OVERLOADED, "retry", wait=0.4),
    Kind("error", {"status": 500}, API_ERROR, "retry"),
    Kind("conflict", {"status": 409}, API_ERROR, "retry"),
    Kind("gateway timeout", {"status": 504}, TIMEOUT, "retry"),
    Kind("gateway timeout, billed", {"status": 504, "billed": True}, LATE, "retry"),
    Kind("rate limit", {"status": 429, "headers": {"retry-after": "0.5"}}, RATE_LIMITED,
         "snooze", wait=0.5),
    Kind("rate limit in ms", {"status": 429, "headers": {"retry-after-ms": "300"}}, RATE_LIMITED,
         "snooze", wait=0.3),
    Kind("cut", {"cut": True}, CUT, "retry"),
    Kind("cut after the headers", {"cut": True, "at": "headers"}, CUT, "retry"),
    Kind("cut in the body", {"cut": True, "at": {"bytes": 100}}, CUT, "retry"),
    Kind("stalled, then cut", {"stall": 0.3, "at": {"bytes": 100}}, CUT, "retry"),
    Kind("broken JSON", {"broken_json": True}, GARBLED, "retry"),
    Kind("HTML", {"status": 200, "headers": {"content-type": "text/html"}, "body": "<html>",
                  "billed": True}, GARBLED, "retry"),
    Kind("empty", {"content": "empty"}, INVALID, "retry"),
    Kind("paused turn", {"stop_reason": "pause_turn"}, INVALID, "retry"),
    Kind("missing field", {"content": "missing_field"}, INVALID, "repair"),
    Kind("wrong type", {"content": "wrong_type"}, INVALID, "repair"),
    Kind("ends early", {"content": "truncated"}, INVALID, "repair"),
    Kind("failing check", {"reply": _WRONG_CATEGORY}, INVALID, "repair",
         tasks=("classify_ticket",)),
    Kind("fenced", {"content": "fenced"}, OK, "nothing"),
    Kind("prose", {"content": "prose"}, OK, "nothing"),
    Kind("split", {"content": "split"}, OK, "nothing"),
    Kind("thinking first", {"content": "thinking_first"}, OK, "nothing"),
    Kind("capitals", {"content": "capitalised_enum"}, OK, "nothing",
         tasks=("classify_ticket", "analyze_document")),
    Kind("bad request", {"status": 400}, API_ERROR, "end"),
    Kind("too large", {"status": 413}, API_ERROR, "end"),
    Kind("refused", {"stop_reason": "refusal"}, REFUSED, "end"),
    Kind("truncated", {"stop_reason": "max_tokens"}, TRUNCATED, "end"),
    Kind("out of context", {"stop_reason": "model_context_window_exceeded"}, TRUNCATED, "end"),
)  # fmt: skip

#: Pauses the whole fleet, so there are a few of them only, each the first call of its job.
SPEND_LIMIT = Kind(
    "spend limit",
    {"status": 429, "error_code": "enforced_spend_limit_reached"},
    RATE_LIMITED,
    "snooze",
)

GOOD = Kind("good", {}, OK, "nothing")


@dataclass(frozen=True)
class Planned:
    """A job and the calls that it must make."""

    id: UUID
    task: str
    kinds: list[Kind] = field(default_factory=list)

    @property
    def input(self) -> dict[str, Any]:
        """An input that holds the job's id, by which its faults find it."""
        text = f"The fox and the dog of {self.id} never mind each other, whoever looks."
        match self.task:
            case "summarize_text":
                return {"text": text, "max_words": 50, "audience": "everybody"}
            case "classify_ticket":
                return {"subject": "Fable", "body": text, "categories": ["billing", "other"]}
        return {
            "document_type": "fable",
            "focus_areas": ["animals"],
            "output_depth": "summary",
            "document": text,
        }

    @property
    def faults(self) -> list[dict[str, Any]]:
        """What strikes its calls, in order."""
        return [{"match": str(self.id)} | kind.fault for kind in self.kinds if kind.fault]

    @property
    def succeeds(self) -> bool:
        return self.kinds[-1].follows == "nothing"

    def numbers(self) -> list[tuple[int, int]]:
        """The attempt and the number within the attempt of each call: one repair an attempt."""
        numbers, attempt, call = [], 1, 1
        for kind in self.kinds:
            numbers.append((attempt, call))
            if kind.follows == "repair" and call == 1:
                call = 2
                continue
            call = 1
            attempt += kind.follows in ("repair", "retry")
        return numbers


def plan(number: int, spend_limits: int, seed: int) -> list[Planned]:
    """So many jobs, of which `spend_limits` meet a spend limit first."""
    rng = Random(seed)  # noqa: S311 – no secret
    jobs = []
    for index in range(number):
        task = rng.choice(TASKS)
        kinds = [SPEND_LIMIT] if index < spend_limits else []
        possible = [kind for kind in KINDS if task in kind.tasks]
        while len(kinds) < MOST_FAULTS and rng.random() < RATE:
            kinds.append(rng.choice(possible))
            if kinds[-1].follows in ("nothing", "end"):
                break
        if not kinds or kinds[-1].follows not in ("nothing", "end"):
            kinds.append(GOOD)
        jobs.append(Planned(UUID(int=rng.getrandbits(128), version=4), task, kinds))
    rng.shuffle(jobs)
    return jobs
