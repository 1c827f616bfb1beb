"""A review as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from worker.report.sentences import Explanation
from worker.report.weekly import Ends, Line, WeeklyReview
from worker.storage.figures import Figures


def document(review: WeeklyReview) -> dict[str, Any]:
    """The figures exact, as text where they are dollars; the explanations rounded, as shown."""
    period = review.period
    return {
        "week": period.name,
        "first_day": period.start,
        "last_day": period.last,
        "made_at": review.made_at,
        "compared": review.compared,
        "now": asdict(review.now),
        "before": asdict(review.before),
        "change_usd": review.change,
        "causes": [_cause(each) for each in review.explanations],
        "other_causes_usd": review.unexplained,
        "effects": dict(review.kinds),
        "weeks": [
            {"week": week.name, "first_day": week.start, **asdict(figures)}
            for week, figures in zip(period.history, review.weeks, strict=True)
        ],
        "days": [asdict(day) for day in review.days],
        "by": {
            dimension.replace(" ", "_"): [_line(line) for line in lines]
            for dimension, lines in review.lines.items()
        },
        "tasks": {
            task: asdict(figures) | asdict(review.ends.get(task, Ends()))
            for task, figures in review.tasks.items()
        },
        "lengths": [
            asdict(each) | {"suggested_max_tokens": each.suggested, "advice": each.advice}
            for each in review.lengths
        ],
        "jobs": [row._asdict() for row in review.jobs],
        "alerts": [row._asdict() for row in review.alerts],
        "releases": [asdict(each) for each in review.releases],
        "notes": list(review.notes),
    }


def _cause(explanation: Explanation) -> dict[str, Any]:
    release = explanation.release
    return {
        "usd": explanation.usd,
        "what": explanation.subject,
        "sentence": explanation.sentence,
        "release": None if release is None else asdict(release),
    }


def _line(line: Line) -> dict[str, Any]:
    def known(figures: Figures) -> dict[str, Any]:
        """Without the columns that this breakdown does not have."""
        kept = asdict(figures)
        return (
            kept if line.weeks else {name: kept[name] for name in ("jobs", "cost_usd", "unpriced")}
        )

    return {
        "name": line.name,
        "now": known(line.now),
        "before": known(line.before),
        "weeks_usd": list(line.weeks),
    }
