"""What a watch says to people: what happened, in numbers, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.engine.allocation import Allocation
from worker.engine.baseline import Baseline
from worker.engine.finding import Finding
from worker.engine.watchdog import Alarm, Limits
from worker.storage.releases import Release


@dataclass(frozen=True, slots=True)
class Report:
    """Puts the alarms of one look at one release into words."""

    release_id: int
    prompt: str
    baseline: Baseline
    limits: Limits

    def worse(self, alarms: Sequence[Alarm], remark: str = "") -> Finding:
        """Nothing was done: a person decides."""
        roll_back = f"`claude-jobs prompts rollback {self.prompt}`"
        if remark:
            advice = f"{remark}; look at it now, and run {roll_back} yourself"
        elif self.baseline.is_enough:
            advice = f"it still serves: {roll_back} takes it back, {self._compare(alarms)}"
        else:
            advice = (
                "there is nothing to compare it with, so it still serves: see `claude-jobs failed`,"
                f" and {roll_back} if an earlier version did better"
            )
        return self._finding("release_worse", alarms, f"{self.reason(alarms)}; {advice}")

    def rolled_back(self, alarms: Sequence[Alarm], made: Release) -> Finding:
        """It was taken back."""
        serves = Allocation.from_rows(made.allocation)
        message = (
            f"{self.reason(alarms)}; rolled back by release {made.id}: {serves}, for queued jobs "
            "too; nothing needs to be done tonight. What it made fail is in `claude-jobs failed`, "
            f"and comes back by `claude-jobs requeue`; {self._compare(alarms)}"
        )
        return self._finding("release_rolled_back", alarms, message, rollback=made.id)

    def shared(self, alarms: Sequence[Alarm]) -> Finding:
        """It is not the release."""
        message = (
            f"{self.reason(alarms)}; but {self.baseline.version}, which serves beside it, has "
            "become so as well: not the release's doing, so nothing was rolled back, and it is no "
            "longer watched: see whether the inputs or the model changed"
        )
        return self._finding("release_worse", alarms, message)

    def reason(self, alarms: Sequence[Alarm]) -> str:
        """What is wrong, in one line; also the reason in the history of releases."""
        by_version: dict[str, list[str]] = {}
        for alarm in alarms:
            by_version.setdefault(alarm.version, []).append(self._in_words(alarm))
        return "; ".join(
            f"{version} is worse than it may be: {', '.join(what)}"
            for version, what in by_version.items()
        )

    def evidence(self, alarms: Sequence[Alarm]) -> dict[str, Any]:
        """The same as data."""
        return {
            "release": self.release_id,
            "baseline_version": self.baseline.version,
            "alarms": [asdict(alarm) for alarm in alarms],
            "limits": asdict(self.limits),
        }

    def _in_words(self, alarm: Alarm) -> str:
        old = self.baseline.version
        if alarm.metric in ("validity", "refusals"):
            what = "not valid" if alarm.metric == "validity" else "refused or cut off"
            bad = round(alarm.mean * alarm.calls)
            said = f"{bad:,} of {alarm.calls:,} first replies were {what} ({alarm.mean:.0%}"
            return said + (
                f"; {old}: {alarm.baseline_mean:.1%} of {alarm.baseline_calls:,})"
                if alarm.baseline_calls
                else ")"
            )
        if alarm.metric == "length":
            now, then = f"{alarm.mean:,.0f} output tokens", f"{alarm.baseline_mean:,.0f}"
        else:
            now, then = f"${alarm.mean / 1e8:.4f} a call", f"${alarm.baseline_mean / 1e8:.4f}"
        factor = alarm.mean / alarm.baseline_mean if alarm.baseline_mean else float("inf")
        what = "long" if alarm.metric == "length" else "dear"
        return (
            f"{factor:.1f} times as {what} ({now} over {alarm.calls:,} calls; "
            f"{old}: {then} over {alarm.baseline_calls:,})"
        )

    def _compare(self, alarms: Sequence[Alarm]) -> str:
        old, new = self.baseline.version, alarms[0].version
        return f"`claude-jobs prompts compare {self.prompt} {old} {new}` shows how they differ"

    def _finding(self, kind: str, alarms: Sequence[Alarm], message: str, **details: Any) -> Finding:
        # Never a repetition: what is told once of each version and metric must be heard.
        return Finding(
            kind,
            f"{self.prompt}/{alarms[0].version}",
            message,
            self.evidence(alarms) | details,
            repeat_seconds=0,
        )
