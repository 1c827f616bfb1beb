"""The review's server: what it stores, and its defences."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import httpx2
import pytest

from tasks import summarize_text
from tests.integration.review_world import stored, verdicts
from tests.reviewing import BETTER, sample, served, store, succeeded
from worker.review.server import Server
from worker.settings import get_settings
from worker.storage.engine import get_engine
from worker.storage.reviews import Review

__all__ = ["stored"]  # the fixture


@pytest.fixture
def address(stored: Review) -> Iterator[str]:
    """Where it is served, to Ann."""
    with served(Server(stored, summarize_text, "Ann")) as url:
        yield url


def origin(url: str) -> dict[str, str]:
    return {"Origin": url.rsplit("/", 2)[0]}


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
