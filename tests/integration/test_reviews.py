"""Reviews in Postgres, the server's defences, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from tasks import classify_ticket, summarize_text
from tests.integration.command import Rows, Run
from tests.reviewing import BETTER, INPUT, WORSE, review, sample, served, store, succeeded
from worker.engine import releasing
from worker.engine.catalog import register
from worker.engine.pins import pin_to
from worker.engine.prompts import Prompt
from worker.engine.registry import load_registry
from worker.errors import ConfigurationError, InvalidInput, UnknownPromptVersion
from worker.review import collected, generation, inputs
from worker.review.server import Server
from worker.review.subject import choose_subject
from worker.settings import get_settings
from worker.storage import review_samples, reviews
from worker.storage.engine import get_engine, transaction
from worker.storage.reviews import Review, Verdict, VerdictCounts

Address = tuple[str, Review]


@pytest.fixture
def stored(producer: None) -> Review:
    """A review of two samples."""
    return store(
        [
            sample(succeeded(BETTER), succeeded(WORSE), text="One."),
            sample(succeeded(BETTER), succeeded(WORSE), text="Two.", number=2),
        ]
    )


@pytest.fixture
def address(stored: Review) -> Iterator[str]:
    """Where it is served, to Ann."""
    with served(Server(stored, summarize_text, "Ann")) as url:
        yield url


def origin(url: str) -> dict[str, str]:
    return {"Origin": url.rsplit("/", 2)[0]}


def verdicts() -> list[Any]:
    with transaction() as connection:
        found = connection.execute(text("SELECT * FROM prompt_verdicts ORDER BY id"))
        return list(found.mappings())


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


# The server.


def test_a_verdict_is_stored_with_reviewer_and_note_and_leads_to_the_next(address: str) -> None:
    with httpx2.Client(headers=origin(address)) as browser:
        answer = browser.post(f"{address}samples/1", data={"choice": "left", "note": "short, ok"})
        assert (answer.status_code, answer.headers["location"]) == (303, "2")
        again = browser.post(f"{address}samples/1", data={"choice": "left", "note": "short, ok"})
        assert again.status_code == 303
        last = browser.post(f"{address}samples/2", data={"choice": "right-unacceptable"})
        assert last.headers["location"] == "../"
        browser.post(f"{address}samples/1", data={"choice": "same", "note": ""})

    given = [(v["sample"], v["reviewer"], v["verdict"], v["note"], v["blind"]) for v in verdicts()]
    assert given == [
        (1, "Ann", "better", "short, ok", True),
        (2, "Ann", "better", "", True),
        (1, "Ann", "same", "", False),
    ]


def test_each_browser_has_its_reviewer(address: str) -> None:
    with httpx2.Client(headers=origin(address)) as browser:
        browser.post(f"{address}reviewer", data={"name": "Bob Ö."})
        assert "judged by Bob Ö." in browser.get(address).text
        browser.post(f"{address}samples/1", data={"choice": "same", "note": ""})
        browser.post(f"{address}reviewer", data={"name": ""})
        assert "Your name, kept with your verdicts" in browser.get(address).text
        assert browser.get(f"{address}samples/1").status_code == 303
    with httpx2.Client() as other:
        assert "judged by Ann" in other.get(address).text

    assert [v["reviewer"] for v in verdicts()] == ["Bob Ö."]


def test_strangers_are_turned_away(address: str) -> None:
    root, secret, _ = address.rsplit("/", 2)
    port = root.rpartition(":")[2]
    verdict = {"choice": "left", "note": ""}
    with httpx2.Client() as browser:
        for path in ("/", "/wrong/", f"/{secret[:-1]}/", "/review.css", f"/{secret.lower()}/"):
            assert browser.get(root + path).status_code == 404, path
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
            assert browser.get(address, headers={"Host": host}).status_code == 400, host
        for origin_ in (None, "null", "http://evil.example", f"https://127.0.0.1:{port}"):
            headers = {} if origin_ is None else {"Origin": origin_}
            answer = browser.post(f"{address}samples/1", data=verdict, headers=headers)
            assert answer.status_code == 403, origin_
        assert browser.get(address, headers={"Host": "localhost:9999"}).status_code == 200
    raw = HTTPConnection("127.0.0.1", int(port))
    raw.request("OPTIONS", "*")
    assert raw.getresponse().status == 404
    raw.close()

    assert verdicts() == []


def test_every_page_forbids_what_it_does_not_need(address: str) -> None:
    with httpx2.Client() as browser:
        for path in ("", "samples/1", "review.js", "nothing"):
            headers = browser.get(address + path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
            assert "unsafe" not in policy
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


BAD_FORMS = [
    ({"choice": "acceptable"}, "&#39;acceptable&#39; is not a verdict of this review"),
    ({"note": "no choice"}, "is not a verdict of this review"),
    ({"choice": "left", "note": "x" * 10_001}, "the note exceeds 10,000 characters"),
    ({"choice": "left", "note": "x" * 200_000}, "too large"),
    ({f"field{n}": "x" for n in range(20)}, "not a form of this page"),
]


def test_bad_forms_are_answered_in_words(address: str) -> None:
    for form, expected in BAD_FORMS:
        answer = httpx2.post(f"{address}samples/1", data=form, headers=origin(address))
        assert answer.status_code == 400
        assert expected in answer.text
    assert verdicts() == []


def test_samples_that_are_not_there_lead_back(address: str) -> None:
    for number in (0, 3, 10**9):
        answer = httpx2.get(f"{address}samples/{number}")
        assert answer.headers["location"] == "../"
    assert httpx2.get(f"{address}samples/one").status_code == 404


def test_what_was_not_generated_yet_cannot_be_judged(producer: None) -> None:
    pending = store([sample(succeeded(BETTER), None)])
    with served(Server(pending, summarize_text, "Ann")) as url:
        assert "has not been generated yet" in httpx2.get(f"{url}samples/1").text
        answer = httpx2.post(f"{url}samples/1", data={"choice": "left"}, headers=origin(url))
        assert answer.status_code == 400


def test_an_outage_of_postgres_is_told_and_nothing_is_lost_silently(stored: Review) -> None:
    with (
        served(Server(stored, summarize_text, "Ann")) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
        get_engine().dispose()
        get_settings.cache_clear()
        get_engine.cache_clear()
        answer = httpx2.post(f"{url}samples/1", data={"choice": "left"}, headers=origin(url))
    get_settings.cache_clear()
    get_engine.cache_clear()

    assert answer.status_code == 503
    assert "Nothing was stored" in answer.text


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


# The command.


BAD_ARGUMENTS = [
    (["translate", "1.0"], "no prompt 'translate': add prompts/translate/1.0.toml"),
    (["analyze_document", "9"], "has no version '9'; it has 1.0, 1.1"),
    (["analyze_document", "1.1", "--baseline", "9"], "has no version '9'"),
    (["analyze_document", "1.1", "--baseline", "1.1"], "say the same to Claude"),
    (["analyze_document", "1.1", "--task", "summarize_text"], "uses prompt summarize_text"),
    (["analyze_document"], "which prompt, and which version?"),
    (["analyze_document", "1.1", "--inputs", "none.jsonl"], "cannot read none.jsonl: "),
    (["analyze_document", "1.1", "--inputs", "/dev/null"], "/dev/null holds no inputs"),
    (["analyze_document", "1.1", "--from-jobs", "3"], "has succeeded yet"),
    (["analyze_document", "1.1", "--from-jobs", "3", "--samples", "3"], "stands alone"),
    (["analyze_document", "1.1", "--reveal"], "--reveal belongs to --export"),
    (["--import", "none.json"], "cannot read none.json: "),
    (["--import", "/dev/null"], "/dev/null: (all): Invalid JSON"),
]


def test_bad_input_is_one_line_that_names_it(run: Run, rows: Rows) -> None:
    for arguments, expected in BAD_ARGUMENTS:
        assert expected in run("prompts", "review", *arguments).line
    assert rows("SELECT * FROM jobs") == []


def test_a_line_that_does_not_fit_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text(json.dumps(INPUT) + "\n" + json.dumps(INPUT | {"max_words": 1}) + "\n")
    command = ("prompts", "review", "summarize_text", "1.0", "--inputs", file)
    assert "input 2: summarize_text: max_words: Input should be greater" in run(*command).line
    file.write_text(json.dumps(INPUT) + "\n{")
    assert "inputs.jsonl:2: not valid JSON" in run(*command).line
    file.write_text('{"text": {"$text": "../../secret"}}')
    assert "inputs.jsonl:1: cannot read " in run(*command).line


def test_without_the_extra_one_line_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("uvicorn", "starlette"):
        monkeypatch.setitem(sys.modules, package, None)
        line = run("prompts", "review", "summarize_text", "1.0").line
        expected = f"reviews need the package {package}: pip install 'claude-jobs[prompts]'"
        assert line.endswith(expected)


def test_a_task_without_samples_says_where_else_inputs_come_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.review.inputs._SAMPLES", tmp_path)
    with pytest.raises(ConfigurationError, match=r"name a file with --inputs .* --from-jobs N"):
        inputs.from_samples(summarize_text, 5)


def test_a_prompt_that_two_tasks_use_needs_a_task(producer: None) -> None:
    registry = load_registry()
    twin = replace(summarize_text, name="shorten_text")
    both = type(registry)({**registry, "shorten_text": twin}, registry.prompts)
    with transaction() as connection:
        with pytest.raises(ConfigurationError, match="say --task shorten_text or summarize_text"):
            choose_subject(connection, both, "summarize_text", "1.0")
        chosen = choose_subject(connection, both, "summarize_text", "1.0", task="shorten_text")

    assert chosen.task.name == "shorten_text"
    assert chosen.baseline is None


def test_the_baseline_is_what_serves_or_else_the_highest_that_differs(producer: None) -> None:
    registry = load_registry()
    old, new = (registry.prompts.get("analyze_document", version) for version in ("1.0", "1.1"))
    draft = Prompt("analyze_document", "1.1", new.file.model_copy(update={"max_tokens": 9}))
    with transaction() as connection:

        def baseline_of(version: str) -> Prompt | None:
            return choose_subject(connection, registry, "analyze_document", version).baseline

        assert (baseline_of("1.1"), baseline_of("1.0")) == (old, new)
        register(connection, [draft])
        assert baseline_of(pin_to(draft)) == new
        releasing.release(
            connection, registry.prompts, "analyze_document", {"1.0": 9000, "1.1": 1000}, by="Ann"
        )
        assert (baseline_of(pin_to(draft)), baseline_of("1.0")) == (old, new)
        with pytest.raises(UnknownPromptVersion, match="in neither the folder nor the database"):
            baseline_of("1.1@" + "0" * 12)
