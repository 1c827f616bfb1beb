"""Reviews for tests: made by hand, and served from a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from sandbox.process import wait_until
from worker.review.inputs import digest
from worker.review.server import Server
from worker.review.serving import http_server, listen, new_secret, url
from worker.storage import review_samples, reviews
from worker.storage.engine import transaction
from worker.storage.review_samples import NewSample, Sample
from worker.storage.reviews import Review

REVIEW = UUID("00000000-0000-4000-8000-000000000001")
INPUT = {
    "text": "The quick brown fox jumps over the lazy dog.",
    "max_words": 50,
    "audience": "everybody",
}
BETTER = {"summary": "A fox jumps over a dog that is lazy.", "key_points": ["A fox.", "A dog."]}
WORSE = {"summary": "A fox jumps over a cat that is lazy.", "key_points": ["A fox."]}


def succeeded(output: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What is kept of a job that succeeded."""
    return {
        "state": "succeeded",
        "output": output,
        "warnings": [],
        "model": "claude-haiku-5-5",
        "calls": 1,
        "cost_usd": "0.00123400",
        "output_tokens": 1234,
    } | changes


def review(*, baseline: bool = True) -> Review:
    """The review of summarize_text 1.1, or of a first version, in no database."""
    return Review(
        REVIEW,
        "summarize_text",
        "summarize_text",
        "1.1",
        "a" * 64,
        "1.0" if baseline else None,
        "b" * 64 if baseline else None,
        "Ann",
        datetime(2026, 11, 25, tzinfo=UTC),
    )


def sample(
    candidate: dict[str, Any] | None,
    baseline: dict[str, Any] | None,
    *,
    candidate_left: bool = True,
    number: int = 1,
    **values: Any,
) -> Sample:
    """A sample in no database."""
    return Sample(
        REVIEW,
        number,
        "file",
        INPUT | values,
        digest(json.dumps(values), str(number)),
        candidate_left,
        None,
        None,
        candidate,
        baseline,
    )


def store(samples: Sequence[Sample], *, baseline: bool = True) -> Review:
    """Put a review with these samples into the database of this process."""
    made = review(baseline=baseline)
    with transaction() as connection:
        stored = reviews.open_review(
            connection,
            task=made.task,
            prompt=made.prompt,
            version=made.version,
            prompt_sha256=made.prompt_sha256,
            baseline_version=made.baseline_version,
            baseline_sha256=made.baseline_sha256,
            created_by="Ann",
        )
        new = [NewSample("file", s.input, s.input_sha256, s.candidate_left) for s in samples]
        assert review_samples.add_samples(connection, stored.id, new) == len(samples)
        for number, each in enumerate(samples, start=1):
            connection.execute(
                text(
                    "UPDATE prompt_review_samples SET candidate = cast(:candidate AS jsonb),"
                    " baseline = cast(:baseline AS jsonb)"
                    " WHERE review = :review AND number = :number"
                ),
                {
                    "candidate": json.dumps(each.candidate) if each.candidate else None,
                    "baseline": json.dumps(each.baseline) if each.baseline else None,
                    "review": stored.id,
                    "number": number,
                },
            )
    return stored


@contextmanager
def served(server: Server) -> Iterator[str]:
    """The address of a running server."""
    secret = new_secret()
    with listen(0) as bound:
        http = http_server(server.app(secret))
        thread = threading.Thread(target=http.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        wait_until(lambda: http.started, seconds=10, failure="the server did not start")
        try:
            yield url(bound, secret)
        finally:
            http.should_exit = True
            thread.join(10)
