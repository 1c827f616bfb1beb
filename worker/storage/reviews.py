"""Reviews by people: which contents of a prompt are compared, and the verdicts on its samples.

A verdict is about the candidate: `better`, `same` or `worse` than the baseline, or `unacceptable`
whatever the baseline did; `acceptable` where there is none. Nothing is overwritten: a reviewer who
changes their mind adds a verdict, and the newest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Review:
    """A candidate and its baseline, if it has one, by version and content."""

    id: UUID
    task: str
    prompt: str
    version: str
    prompt_sha256: str
    baseline_version: str | None
    baseline_sha256: str | None
    created_by: str
    created_at: datetime

    @property
    def title(self) -> str:
        """What is reviewed, in words."""
        if self.baseline_version is None:
            return f"{self.prompt} {self.version}"
        if self.baseline_version == self.version:  # a draft, and what it was
            return f"{self.prompt} {self.version}, compared with an earlier {self.version}"
        return f"{self.prompt} {self.version}, compared with {self.baseline_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reviewer says of a sample; `blind`: without knowing which side was which."""

    sample: int
    reviewer: str
    verdict: str
    baseline_unacceptable: bool = False
    blind: bool = True
    note: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """The newest verdict of each reviewer on each sample of a prompt's content.

    `samples` counts different inputs, `unacceptable_samples` those of them of which at least one
    reviewer said so. Two reviewers of a sample are two in `by_verdict`.
    """

    by_verdict: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    unacceptable_samples: int = 0
    reviewers: int = 0

    @property
    def verdicts(self) -> int:
        """How many there are."""
        return sum(self.by_verdict.values())


_REVIEW_COLUMNS = """id, task, prompt, version, prompt_sha256, baseline_version, baseline_sha256,
          created_by, created_at"""

# DO UPDATE with nothing new, so that the row is returned whoever inserted it.
_OPEN = text(f"""
INSERT INTO prompt_reviews (task, prompt, version, prompt_sha256, baseline_version,
                            baseline_sha256, created_by)
VALUES (:task, :prompt, :version, :prompt_sha256, :baseline_version, :baseline_sha256, :created_by)
ON CONFLICT (prompt, prompt_sha256, task, coalesce(baseline_sha256, ''))
DO UPDATE SET prompt = excluded.prompt
RETURNING {_REVIEW_COLUMNS}
""")  # noqa: S608 – built from the constant above


def open_review(
    connection: Connection,
    *,
    task: str,
    prompt: str,
    version: str,
    prompt_sha256: str,
    baseline_version: str | None,
    baseline_sha256: str | None,
    created_by: str,
) -> Review:
    """The review of these contents, begun now unless there is one; locked until the commit."""
    values = {
        "task": task,
        "prompt": prompt,
        "version": version,
        "prompt_sha256": prompt_sha256,
        "baseline_version": baseline_version,
        "baseline_sha256": baseline_sha256,
        "created_by": created_by,
    }
    return Review(*connection.execute(_OPEN, values).one())


_BY_ID = text(f"SELECT {_REVIEW_COLUMNS} FROM prompt_reviews WHERE id = :id")  # noqa: S608


def find_review(connection: Connection, review: UUID) -> Review | None:
    """The review with that id, if there is one."""
    row = connection.execute(_BY_ID, {"id": review}).one_or_none()
    return None if row is None else Review(*row)


_ADD_VERDICT = text("""
INSERT INTO prompt_verdicts (review, sample, reviewer, verdict, baseline_unacceptable, blind, note)
VALUES (:review, :sample, :reviewer, :verdict, :baseline_unacceptable, :blind, :note)
""")


def add_verdict(connection: Connection, review: UUID, verdict: Verdict) -> None:
    """Add a verdict; earlier ones of the reviewer on the sample become history."""
    values = {
        "review": review,
        "sample": verdict.sample,
        "reviewer": verdict.reviewer,
        "verdict": verdict.verdict,
        "baseline_unacceptable": verdict.baseline_unacceptable,
        "blind": verdict.blind,
        "note": verdict.note,
    }
    connection.execute(_ADD_VERDICT, values)


_VERDICTS = text("""
SELECT DISTINCT ON (sample, reviewer)
       sample, reviewer, verdict, baseline_unacceptable, blind, note, created_at
FROM prompt_verdicts WHERE review = :review ORDER BY sample, reviewer, id DESC
""")


def verdicts(connection: Connection, review: UUID) -> list[Verdict]:
    """The newest verdict of each reviewer on each sample."""
    rows = connection.execute(_VERDICTS, {"review": review}).mappings()
    return [Verdict(**row) for row in rows]


_COUNTS = text("""
WITH newest AS (
    SELECT DISTINCT ON (verdict.review, verdict.sample, verdict.reviewer)
           verdict.reviewer, verdict.verdict, sample.input_sha256
    FROM prompt_reviews AS review
    JOIN prompt_review_samples AS sample ON sample.review = review.id
    JOIN prompt_verdicts AS verdict
         ON verdict.review = sample.review AND verdict.sample = sample.number
    WHERE review.prompt = :prompt AND review.prompt_sha256 = :sha256
    ORDER BY verdict.review, verdict.sample, verdict.reviewer, verdict.id DESC
)
SELECT (SELECT coalesce(jsonb_object_agg(verdict, given), '{}')
        FROM (SELECT verdict, count(*) AS given FROM newest GROUP BY 1) AS each),
       count(DISTINCT input_sha256),
       count(DISTINCT input_sha256) FILTER (WHERE verdict = 'unacceptable'),
       count(DISTINCT reviewer)
FROM newest
""")


def verdict_counts(connection: Connection, prompt: str, sha256: str) -> VerdictCounts:
    """What people said of a prompt's content, over all its reviews."""
    values: Mapping[str, Any] = {"prompt": prompt, "sha256": sha256}
    return VerdictCounts(*connection.execute(_COUNTS, values).one())
