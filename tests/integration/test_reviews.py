"""Reviews in Postgres: samples, outcomes, verdicts, and verdicts from a file."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from tasks import classify_ticket, summarize_text
from tests.integration.review_world import stored, verdicts
from tests.reviewing import BETTER, INPUT, review, sample, store, succeeded
from worker.engine.pins import pin_to
from worker.engine.registry import load_registry
from worker.errors import InvalidInput
from worker.review import collected, generation, inputs
from worker.review.subject import choose_subject
from worker.storage import review_samples, reviews
from worker.storage.engine import transaction
from worker.storage.reviews import Review, Verdict, VerdictCounts

__all__ = ["stored"]  # the fixture


# Storage.


def test_the_newest_verdict_of_each_reviewer_counts_and_the_others_are_kept(
    stored: Review,
) -> None:
    with transaction() as connection:
        for reviewer, number, verdict in [
            ("Ann", 1, "worse"),
            ("Ann", 1, "better"),
            ("Bob", 1, "unacceptable"),
            ("Ann", 2, "same"),
        ]:
            given = Verdict(sample=number, reviewer=reviewer, verdict=verdict)
            reviews.add_verdict(connection, stored.id, given)
        counts = reviews.verdict_counts(connection, "summarize_text", "a" * 64)
        newest = [
            (v.sample, v.reviewer, v.verdict) for v in reviews.verdicts(connection, stored.id)
        ]
        none = reviews.verdict_counts(connection, "summarize_text", "b" * 64)

    assert counts == VerdictCounts({"better": 1, "same": 1, "unacceptable": 1}, 2, 1, 2)
    assert counts.verdicts == 3
    assert newest == [(1, "Ann", "better"), (1, "Bob", "unacceptable"), (2, "Ann", "same")]
    assert none == VerdictCounts()
    assert len(verdicts()) == 4


def test_an_input_that_two_reviews_of_a_content_share_is_one_sample(stored: Review) -> None:
    alone = store([sample(succeeded(BETTER), None, text="One.")], baseline=False)
    with transaction() as connection:
        for review_id in (stored.id, alone.id):
            given = Verdict(sample=1, reviewer="Ann", verdict="unacceptable")
            reviews.add_verdict(connection, review_id, given)
        counts = reviews.verdict_counts(connection, "summarize_text", "a" * 64)

    assert (counts.samples, counts.unacceptable_samples, counts.verdicts) == (1, 1, 2)


def test_an_outcome_is_kept_when_its_job_is_pruned_and_stays_once_it_was_judged(
    producer: None,
) -> None:
    with transaction() as connection:
        subject = choose_subject(connection, load_registry(), "classify_ticket", "1.0")
        opened, samples = generation.begin(
            connection, subject, inputs.from_samples(classify_ticket, 2), "Ann"
        )
        assert [each.candidate for each in samples] == [None, None]
        assert len(review_samples.unfinished_jobs(connection, opened.id)) == 2
        finish = (
            "UPDATE jobs SET state = 'failed', finished_at = now(), error = :error WHERE id = :id"
        )
        for each in samples:
            error = json.dumps({"type": "refused", "message": "first"})
            connection.execute(text(finish), {"id": each.candidate_job, "error": error})
        review_samples.keep_outcomes(connection, opened.id)
        reviews.add_verdict(
            connection, opened.id, Verdict(sample=1, reviewer="Ann", verdict="unacceptable")
        )
        connection.execute(
            text("UPDATE jobs SET error = jsonb_set(error, '{message}', '\"then\"')")
        )
        review_samples.keep_outcomes(connection, opened.id)
        connection.execute(text("DELETE FROM jobs"))
        review_samples.keep_outcomes(connection, opened.id)
        kept = review_samples.samples(connection, opened.id)

    assert [each.candidate and each.candidate["error"]["message"] for each in kept] == [
        "first",
        "then",
    ]


def test_beginning_again_adds_only_what_is_new_and_enqueues_nothing_twice(producer: None) -> None:
    with transaction() as connection:
        subject = choose_subject(connection, load_registry(), "analyze_document", "1.1")
        assert subject.baseline is not None
        first, two = generation.begin(
            connection, subject, inputs.from_samples(subject.task, 2), "Ann"
        )
        second, five = generation.begin(
            connection, subject, inputs.from_samples(subject.task, 5), "Bob"
        )
        jobs = connection.execute(
            text("SELECT prompt_version, priority, user_id, idempotency_key FROM jobs")
        ).all()

    assert first == second
    assert five[:2] == two
    assert len(five) == 5
    assert len(jobs) == 10
    assert {job.priority for job in jobs} == {50}
    assert {job.user_id for job in jobs} == {None}
    assert all(job.idempotency_key.startswith("review:") for job in jobs)
    pins = [pin_to(subject.baseline), pin_to(subject.candidate)]
    assert sorted(job.prompt_version for job in jobs) == sorted(pins * 5)


def test_the_candidate_is_on_the_left_in_half_of_the_samples() -> None:
    chosen = inputs.from_samples(classify_ticket, 16)

    assert sum(each.candidate_left for each in chosen) == 8
    assert len({tuple(s.candidate_left for s in inputs.with_sides(chosen)) for _ in range(9)}) > 1


def test_inputs_of_recent_jobs_are_those_of_jobs_that_succeeded_outside_of_reviews(
    producer: None,
) -> None:
    with transaction() as connection:
        with pytest.raises(InvalidInput, match="no job of summarize_text has succeeded yet"):
            inputs.from_jobs(connection, summarize_text, 5)
        for words, key in ((11, None), (11, None), (12, None), (13, "review:x"), (14, None)):
            summarize_text.enqueue(
                session=connection, idempotency_key=key, **INPUT | {"max_words": words}
            )
        connection.execute(
            text("UPDATE jobs SET state = 'succeeded', finished_at = now()"
                 " WHERE input ->> 'max_words' <> '14'")
        )  # fmt: skip
        found = inputs.from_jobs(connection, summarize_text, 5)

    assert sorted(each.input["max_words"] for each in found) == [11, 12]
    assert {each.source for each in found} == {"job"}


# Verdicts from a file.


def test_collected_verdicts_are_kept_once(stored: Review) -> None:
    found = collected.Collected.model_validate(
        {
            "review": str(stored.id),
            "reviewer": " Cleo ",
            "verdicts": [
                {"sample": 1, "choice": "right", "note": "clearer"},
                {"sample": 2, "choice": "both-unacceptable"},
            ],
        }
    )
    with transaction() as connection:
        assert collected.keep_collected(connection, found)[1] == 2
        assert collected.keep_collected(connection, found)[1] == 0

    given = [(v["reviewer"], v["verdict"], v["baseline_unacceptable"]) for v in verdicts()]
    assert given == [("Cleo", "worse", False), ("Cleo", "unacceptable", True)]


def test_collected_verdicts_are_stored_all_or_none(stored: Review) -> None:
    good = collected.Given(sample=1, choice="left")
    file = collected.Collected(review=stored.id, reviewer="Cleo", verdicts=[good])
    for wrong, expected in (
        (file.model_copy(update={"review": review().id}), "there is no review"),
        (file.model_copy(update={"reviewer": " "}), "a reviewer's name"),
        (
            file.model_copy(update={"verdicts": [good, collected.Given(sample=9, choice="left")]}),
            "has no sample 9",
        ),
        (
            file.model_copy(update={"verdicts": [good, collected.Given(sample=2, choice="best")]}),
            "sample 2: 'best' is not a verdict",
        ),
    ):
        with pytest.raises(InvalidInput, match=expected), transaction() as connection:
            collected.keep_collected(connection, wrong)
    assert verdicts() == []
