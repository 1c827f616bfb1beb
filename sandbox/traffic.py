"""The jobs that `sandbox.history` makes up: kinds, numbers, and which versions served when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Version:
    """A prompt version: how long its inputs and replies are, and how often they are cut off."""

    version: str
    model: str
    input_tokens: int
    output_tokens: int
    max_tokens: int
    truncated: float = 0.004
    invalid: float = 0.02


@dataclass(frozen=True)
class Kind:
    """A task: jobs on a working day, how they grow by the week, and which version served when.

    `since` has for each version the weeks and days after the first Monday from which it served.
    """

    task: str
    jobs: int
    growth: float
    since: dict[float, Version]
    cached: float = 0.0
    batch: float = 0.0
    prompt_cache: bool = False

    def serving(self, age: timedelta) -> Version:
        """The version at a time after the first Monday."""
        weeks = age / timedelta(weeks=1)
        return self.since[max(each for each in self.since if each <= weeks)]


SONNET, HAIKU, OPUS = "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"
TUESDAY, WEDNESDAY = 1 + 9.4 / 24, 2 + 14.2 / 24  # days and hours after Monday

KINDS = (
    Kind(
        "summarize_text",
        420,
        1.04,
        {
            0.0: Version("1.2", SONNET, 3100, 430, 2000),
            3 + TUESDAY / 7: Version("1.3", SONNET, 3200, 880, 2000, truncated=0.03),
        },
        cached=0.16,
        prompt_cache=True,
    ),
    Kind(
        "classify_ticket",
        1100,
        1.02,
        {
            0.0: Version("1.0", HAIKU, 900, 60, 1024),
            1 + WEDNESDAY / 7: Version("1.1", HAIKU, 640, 42, 1024, invalid=0.006),
        },
        cached=0.3,
    ),
    Kind(
        "analyze_document",
        100,
        1.05,
        {
            0.0: Version("1.0", OPUS, 9000, 1500, 8000, truncated=0.01),
            2.0: Version("1.1", OPUS, 9100, 1450, 8000, truncated=0.006),
        },
        prompt_cache=True,
        cached=0.05,
    ),
    Kind("extract_entities", 300, 0.97, {0.0: Version("1.0", SONNET, 2400, 380, 16000)}, batch=0.7),
    Kind("judge_output", 70, 1.0, {0.0: Version("1.0", OPUS, 1800, 120, 1024)}),
)
