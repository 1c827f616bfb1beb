"""The samples of reviews: inputs, and what two prompt versions made of them.

What a job left is copied from it once it has ended, so that a review outlives its jobs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Sample:
    """An input and what the two versions made of it; None: not known yet."""

    review: UUID
    number: int
    source: str
    input: dict[str, Any]
    input_sha256: str
    candidate_left: bool
    candidate_job: UUID | None
    baseline_job: UUID | None
    candidate: dict[str, Any] | None
    baseline: dict[str, Any] | None


_SAMPLES = text("""
SELECT review, number, source, input, input_sha256, candidate_left, candidate_job, baseline_job,
       candidate, baseline
FROM prompt_review_samples WHERE review = :review ORDER BY number
""")


def samples(connection: Connection, review: UUID) -> list[Sample]:
    """The samples of a review, in order."""
    return [Sample(*row) for row in connection.execute(_SAMPLES, {"review": review})]


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sample to be added; its side is decided here, once and for every reviewer."""

    source: str
    input: dict[str, Any]
    input_sha256: str
    candidate_left: bool


_ADD_SAMPLE = text("""
INSERT INTO prompt_review_samples (review, number, source, input, input_sha256, candidate_left)
SELECT :review, coalesce(max(number), 0) + 1, :source, cast(:input AS jsonb), :input_sha256,
       :candidate_left
FROM prompt_review_samples WHERE review = :review
ON CONFLICT (review, input_sha256) DO NOTHING
""")


def add_samples(connection: Connection, review: UUID, new: Sequence[NewSample]) -> int:
    """Add samples at the end; one whose input the review has already stays as it is.

    To be called in the transaction of `open_review`. Returns how many were added.
    """
    added = 0
    for sample in new:
        values = {
            "review": review,
            "source": sample.source,
            "input": json.dumps(sample.input, ensure_ascii=False),
            "input_sha256": sample.input_sha256,
            "candidate_left": sample.candidate_left,
        }
        added += connection.execute(_ADD_SAMPLE, values).rowcount
    return added


_SET_JOBS = text("""
UPDATE prompt_review_samples SET candidate_job = :candidate_job, baseline_job = :baseline_job
WHERE review = :review AND number = :number
""")


def set_jobs(
    connection: Connection,
    review: UUID,
    number: int,
    candidate_job: UUID | None,
    baseline_job: UUID | None,
) -> None:
    """Note which jobs generate a sample's outputs."""
    values = {"candidate_job": candidate_job, "baseline_job": baseline_job}
    connection.execute(_SET_JOBS, {"review": review, "number": number, **values})


# What people judged stays what they judged; a failure that nobody has judged may be requeued.
_OUTCOMES = text("""
WITH ended AS (
    SELECT jobs.id, jsonb_strip_nulls(jsonb_build_object(
        'state', jobs.state, 'error', jobs.error, 'warnings', results.warnings,
        'model', results.model,
        'calls', (SELECT count(*) FROM usage WHERE usage.job_id = jobs.id),
        'cost_usd', (SELECT sum(cost_usd)::text FROM usage WHERE usage.job_id = jobs.id),
        'output_tokens', (SELECT sum(output_tokens) FROM usage WHERE usage.job_id = jobs.id)
    )) || CASE WHEN results.output IS NULL THEN '{}'
               ELSE jsonb_build_object('output', results.output) END AS outcome
    FROM jobs LEFT JOIN results ON results.job_id = jobs.id
    WHERE jobs.state IN ('succeeded', 'failed', 'cancelled')
      AND jobs.id IN (SELECT unnest(ARRAY[candidate_job, baseline_job])
                      FROM prompt_review_samples WHERE review = :review)
)
UPDATE prompt_review_samples AS sample
SET candidate = CASE WHEN sample.candidate ->> 'state' = 'succeeded' THEN sample.candidate
                     ELSE coalesce((SELECT outcome FROM ended WHERE id = candidate_job),
                                   sample.candidate) END,
    baseline = CASE WHEN sample.baseline ->> 'state' = 'succeeded' THEN sample.baseline
                    ELSE coalesce((SELECT outcome FROM ended WHERE id = baseline_job),
                                  sample.baseline) END
WHERE review = :review AND NOT EXISTS (
    SELECT FROM prompt_verdicts AS verdict
    WHERE verdict.review = sample.review AND verdict.sample = sample.number)
""")


def keep_outcomes(connection: Connection, review: UUID) -> None:
    """Copy what the jobs that have ended left; samples that were judged stay as they are."""
    connection.execute(_OUTCOMES, {"review": review})


_UNFINISHED = text("""
SELECT id FROM jobs
WHERE state IN ('queued', 'dispatched', 'running')
  AND id IN (SELECT unnest(ARRAY[candidate_job, baseline_job])
             FROM prompt_review_samples WHERE review = :review)
""")


def unfinished_jobs(connection: Connection, review: UUID) -> list[UUID]:
    """The jobs of a review that have not ended."""
    return list(connection.execute(_UNFINISHED, {"review": review}).scalars())


_RECENT = text("""
SELECT input FROM (
    SELECT id, input FROM jobs
    WHERE task = :task AND state = 'succeeded'
      AND (idempotency_key IS NULL OR NOT starts_with(idempotency_key, :prefix))
    ORDER BY finished_at DESC LIMIT 1000
) AS newest ORDER BY md5(id::text) LIMIT :limit
""")


def recent_inputs(
    connection: Connection, task: str, *, besides: str, limit: int
) -> list[dict[str, Any]]:
    """Inputs of `limit` of a task's last 1,000 succeeded jobs, scattered over them.

    Jobs whose idempotency key begins with `besides` are left out.
    """
    values = {"task": task, "prefix": besides, "limit": limit}
    return list(connection.execute(_RECENT, values).scalars())
