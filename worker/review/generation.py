"""Generating what is reviewed: ordinary jobs, pinned to a version, each paid for once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from worker.engine.catalog import register
from worker.engine.pins import pin_to
from worker.engine.prompts import Prompt
from worker.engine.registry import AnyTask
from worker.review.inputs import KEY_PREFIX, digest
from worker.review.subject import Subject
from worker.storage import review_samples, reviews
from worker.storage.enqueue import NewJob
from worker.storage.review_samples import NewSample, Sample
from worker.storage.reviews import Review

#: Before ordinary jobs (100), behind what a team calls urgent: a person waits for these few, and a
#: backlog of a million behind them is held up by two calls a sample.
PRIORITY = 50


def begin(
    connection: Connection, subject: Subject, new: list[NewSample], created_by: str
) -> tuple[Review, list[Sample]]:
    """Open the review of `subject`, add what is new to it, and enqueue the jobs that it lacks.

    A second time it finds everything there: the jobs' idempotency keys name the version's content
    and the input, so nothing is generated twice, not even for the review of another version.
    Workers take a content that their folder lacks from the database.
    """
    candidate, baseline = subject.candidate, subject.baseline
    register(connection, [candidate] if baseline is None else [candidate, baseline])
    review = reviews.open_review(
        connection,
        task=subject.task.name,
        prompt=candidate.name,
        version=candidate.version,
        prompt_sha256=candidate.sha256,
        baseline_version=None if baseline is None else baseline.version,
        baseline_sha256=None if baseline is None else baseline.sha256,
        created_by=created_by,
    )
    review_samples.add_samples(connection, review.id, new)
    samples = review_samples.samples(connection, review.id)
    _enqueue(connection, subject, samples)
    return review, review_samples.samples(connection, review.id)


def _enqueue(connection: Connection, subject: Subject, samples: list[Sample]) -> None:
    wanted: list[tuple[Sample, str, NewJob]] = []
    for sample in samples:
        if sample.candidate is None:
            wanted.append((sample, "candidate", _job(subject.task, subject.candidate, sample)))
        if sample.baseline is None and subject.baseline is not None:
            wanted.append((sample, "baseline", _job(subject.task, subject.baseline, sample)))
    jobs = subject.task.enqueue_many([job for _, _, job in wanted], session=connection)
    ids: dict[int, dict[str, UUID | None]] = {
        sample.number: {"candidate": sample.candidate_job, "baseline": sample.baseline_job}
        for sample, _, _ in wanted
    }
    for (sample, side, _), job in zip(wanted, jobs, strict=True):
        ids[sample.number][side] = job.id
    for number, sides in ids.items():
        review = samples[0].review
        review_samples.set_jobs(connection, review, number, sides["candidate"], sides["baseline"])


def _job(task: AnyTask, prompt: Prompt, sample: Sample) -> NewJob:
    options: dict[str, Any] = {
        "prompt_version": pin_to(prompt),
        "priority": PRIORITY,
        "cache": False,
        "idempotency_key": KEY_PREFIX + digest(prompt.name, prompt.sha256, sample.input_sha256),
    }
    return task.new_job(sample.input, **options)
