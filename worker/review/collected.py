"""Verdicts that were collected in an exported file, and came back as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from worker.engine.checks import in_words, problems_of
from worker.errors import InvalidInput
from worker.review.verdicts import clean_name, done, to_verdict
from worker.storage import review_samples, reviews
from worker.storage.reviews import Review


class Given(BaseModel):
    """A verdict as the page has it: by side."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: int
    choice: str
    note: str = ""


class Collected(BaseModel):
    """What "Copy verdicts as JSON" copies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    review: UUID
    reviewer: str
    verdicts: list[Given]


def read_collected(path: Path) -> Collected:
    """The verdicts in a file.

    Raises:
        InvalidInput: it cannot be read, or holds something else.
    """
    try:
        return Collected.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None
    except ValidationError as error:
        raise InvalidInput(f"{path}: {in_words(problems_of(error))}") from None


def keep_collected(connection: Connection, collected: Collected) -> tuple[Review, int]:
    """Store what is new in `collected`; returns the review, and how many verdicts that were.

    Raises:
        InvalidInput: there is no such review, sample or verdict; nothing is to be stored then.
    """
    review = reviews.find_review(connection, collected.review)
    if review is None:
        raise InvalidInput(f"there is no review {collected.review} in this database")
    reviewer = clean_name(collected.reviewer)
    samples = {sample.number: sample for sample in review_samples.samples(connection, review.id)}
    before = reviews.verdicts(connection, review.id)
    mine = {each.sample: each for each in before if each.reviewer == reviewer}
    blind = not done(list(samples.values()), before, reviewer)
    kept = 0
    for given in collected.verdicts:
        if given.sample not in samples:
            raise InvalidInput(f"the review of {review.title} has no sample {given.sample}")
        sample = samples[given.sample]
        verdict = to_verdict(
            review, sample, given.choice, reviewer=reviewer, note=given.note, blind=blind
        )
        known = mine.get(given.sample)
        if known is None or replace(known, blind=blind, created_at=None) != verdict:
            reviews.add_verdict(connection, review.id, verdict)
            kept += 1
    return review, kept
