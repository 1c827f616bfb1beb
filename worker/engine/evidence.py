"""What speaks for a prompt version before it is released: its cases passed, and people read it.

Evidence is about a content, not a name: a version that was edited after its review has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.engine.prompts import Prompt
from worker.storage.prompt_tests import latest_run
from worker.storage.reviews import VerdictCounts, verdict_counts

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Evidence:
    """The last test run of a version's content, if there is one, and what people said of it.

    `live` is the last run that asked Claude, which may be the same; `cases_sha256` is that of the
    cases as they are now; None where nobody can tell.
    """

    prompt: Prompt
    cases_sha256: str | None
    run: dict[str, Any] | None
    live: dict[str, Any] | None
    verdicts: VerdictCounts

    def missing(self, samples: int) -> list[str]:
        """What stands against a release that asks for so many samples read; a phrase each."""
        return [*self._tests(), *self._reviews(samples)]

    def proves(self) -> str:
        """In one sentence, what the samples that were read say about those that were not."""
        read, bad = self.verdicts.samples, self.verdicts.unacceptable_samples
        if not read:
            return "nobody has read a sample"
        if bad:
            return f"{bad} of {read} samples are unacceptable to somebody"
        return (
            f"{read} samples without an unacceptable one bound the share of unacceptable outputs "
            f"below {100 * upper_bound(read):.0f} % only, at 95 % confidence, for inputs like those"
        )

    def tested(self) -> str:
        """In one sentence, what was tested of it."""
        if self.run is None:
            return "its cases were never run"
        how = "by a live run" if self.run["mode"] == "live" else "against recorded replies"
        skipped = self.run["skipped"]
        left = f", without {skipped} expectations that only a live run can judge" if skipped else ""
        return f"its cases {'passed' if self.run['passed'] else 'did not pass'} {how}{left}"

    def as_json(self) -> dict[str, Any]:
        """What the history keeps of it."""
        run = self.run and {key: str(self.run[key]) for key in ("id", "mode", "created_at")} | {
            key: self.run[key] for key in ("passed", "cases", "failures", "skipped")
        }
        return {
            "test_run": run,
            "verdicts": self.verdicts.by_verdict,
            "samples": self.verdicts.samples,
            "reviewers": self.verdicts.reviewers,
            "proves": self.proves(),
        }

    def _tests(self) -> list[str]:
        name, version = self.prompt.name, self.prompt.version
        command = f"`claude-jobs prompts test {name} --version {version}`"
        live_command = f"{command[:-1]} --live`"
        if self.run is None:
            return [f"this content was never tested: {live_command}"]
        if self.cases_sha256 not in (None, self.run["cases_sha256"]):
            return [f"the cases have changed since its last test: {command}"]
        if not self.run["passed"]:
            return [f"its last test did not pass: {command}"]
        live = self.live
        if live and not live["passed"] and live["cases_sha256"] == self.run["cases_sha256"]:
            # The same replies, recorded, are spared what only a live run can judge.
            return [f"its last live test did not pass: {live_command}"]
        return []

    def _reviews(self, samples: int) -> list[str]:
        name, version = self.prompt.name, self.prompt.version
        command = f"`claude-jobs prompts review {name} {version}`"
        against = []
        if self.verdicts.samples < samples:
            against.append(f"{self.verdicts.samples} of {samples} samples were read: {command}")
        if bad := self.verdicts.unacceptable_samples:
            against.append(f"{bad} samples are unacceptable to somebody: {command}")
        return against


def gather(connection: Connection, prompt: Prompt, cases_sha256: str | None) -> Evidence:
    """The evidence for the very content of `prompt`."""
    content = prompt.name, prompt.sha256
    run, live = latest_run(connection, *content), latest_run(connection, *content, live=True)
    return Evidence(
        prompt,
        cases_sha256,
        None if run is None else dict(run),
        None if live is None else dict(live),
        verdict_counts(connection, *content),
    )


def upper_bound(clean: int) -> float:
    """The share of bad outputs that so many clean ones in a row exclude, one-sided at 95 %.

    The largest p with (1 - p)^n >= 0.05: the Clopper-Pearson bound for no success in n trials
    (Clopper & Pearson 1934; "the rule of three" approximates it by 3/n).
    """
    return float(1 - (1 - _CONFIDENCE) ** (1 / clean))
