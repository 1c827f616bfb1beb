"""A review in a real browser: by keyboard alone, by two people, in a file from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from sqlalchemy import text

from sandbox.claude.faults import Fault
from sandbox.service import Service
from tasks import analyze_document
from tests.browsing import CONTRAST, NEEDS_CHROMIUM, chromium
from tests.reviewing import served
from worker.cli import review as command
from worker.engine.prompts import get_prompts
from worker.engine.registry import load_registry
from worker.review import collected
from worker.review.server import Server
from worker.settings import PROJECT, get_settings
from worker.storage import review_samples, reviews
from worker.storage.engine import transaction
from worker.storage.review_samples import Sample
from worker.storage.reviews import Review, Verdict

HOSTILE = "<img src=http://192.0.2.1/x onerror=document.title='owned'>{{ 7 * 7 }}\u202e\u0001</p>"

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Reader:
    """A person with a browser; nothing may go wrong in it, and nothing may be asked of others."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 900}} | options
        self.context: BrowserContext = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.troubles: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def judge(self, key: str) -> None:
        """Press a verdict's key, and wait for the page that follows."""
        with self.page.expect_navigation():
            self.press(key)

    def begin(self, url: str, name: str) -> None:
        self.page.goto(url)
        self.page.keyboard.type(name)
        with self.page.expect_navigation():
            self.press("Enter")

    def close(self, address: str) -> None:
        self.context.close()
        assert self.troubles == []
        assert all(url.startswith(address) for url in self.asked), self.asked


@pytest.fixture(scope="module")
def draft(worker: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A version 1.2 that only the reviewers' folder has, not the worker's."""
    folder = tmp_path_factory.mktemp("drafts") / "prompts"
    shutil.copytree(PROJECT / "prompts", folder)
    present = (folder / "analyze_document" / "1.1.toml").read_text(encoding="utf-8")
    changed = present.replace("You analyse documents", "You read documents")
    (folder / "analyze_document" / "1.2.toml").write_text(changed, encoding="utf-8")
    caches = (get_settings, get_prompts, load_registry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_JOBS_PROMPTS_DIR", str(folder))
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def opened(
    draft: None, stack: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Review, Path]:
    """A review whose outputs a worker made: one job is refused, one input is hostile."""
    stack.claude.reset()
    refusal = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": "refusal",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }
    stack.claude.faults(Fault(match="REFUSE ONE", status=200, body=refusal, times=1))
    file = tmp_path_factory.mktemp("review") / "inputs.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number, document in enumerate(
            (
                "The fox and the dog. " * 20,
                f"REFUSE ONE. {HOSTILE}",
                HOSTILE + "x" * 100_000,
                "Fin.",
            )
        ):
            values = {
                "document_type": f"fable {number}",
                "focus_areas": ["animals", HOSTILE],
                "output_depth": "summary",
                "document": document,
            }
            lines.write(json.dumps(values) + "\n")
    for _ in range(2):  # the second time, everything is there
        command.review(
            "analyze_document", "1.2", inputs_file=file, no_serve=True, export=None, port=0
        )
    with transaction() as connection:
        found = connection.execute(text("SELECT id FROM prompt_reviews")).scalar_one()
        review = reviews.find_review(connection, found)
    assert review is not None
    assert len(stack.claude.ledger()) == 8
    return review, file


@pytest.fixture
def address(opened: tuple[Review, Path]) -> Iterator[str]:
    with transaction() as connection:
        connection.execute(text("DELETE FROM prompt_verdicts"))
    with served(Server(opened[0], analyze_document, None)) as url:
        yield url


def state(review: Review) -> tuple[list[Sample], list[Verdict]]:
    with transaction() as connection:
        return review_samples.samples(connection, review.id), reviews.verdicts(
            connection, review.id
        )


def test_a_whole_review_by_keyboard_resumed_and_by_a_second_reviewer(
    browser: Browser, opened: tuple[Review, Path], address: str
) -> None:
    review = opened[0]
    ann = Reader(browser)
    ann.begin(address, "Ann")
    with ann.page.expect_navigation():
        ann.press("u")
    ann.press("n")
    ann.page.keyboard.type("kept 1 to 6 ?")
    with ann.page.expect_navigation():
        ann.press("Escape", "j")
    with ann.page.expect_navigation():
        ann.press("k")
    assert ann.page.locator("textarea").input_value() == "kept 1 to 6 ?"
    ann.judge("1")
    assert ann.page.url.endswith("/samples/2")
    assert "There is no output on this side" in ann.page.inner_text("main")
    ann.judge("6")
    ann.close(address)

    ann = Reader(browser, color_scheme="dark")  # another day
    ann.begin(address, "Ann")
    assert "2 of 4 judged by Ann" in ann.page.inner_text("main")
    with ann.page.expect_navigation():
        ann.press("u")
    assert ann.page.url.endswith("/samples/3")
    assert "(candidate)" not in ann.page.content()
    ann.judge("2")
    ann.judge("4")
    assert "You have judged every sample" in ann.page.inner_text("main")
    assert ann.page.title() == "analyze_document 1.2, compared with 1.1"

    bob = Reader(browser, viewport={"width": 390, "height": 844})
    bob.begin(address, "Bob")
    assert "What was said" not in bob.page.content()
    with bob.page.expect_navigation():
        bob.press("u")
    assert bob.page.evaluate("document.documentElement.scrollWidth") == 390
    for key in "2513":
        bob.judge(key)
    assert "Ann" in bob.page.inner_text("table")
    bob.close(address)

    ann.page.goto(f"{address}samples/1")
    left = "1.2 (candidate)" in ann.page.inner_text(".heads .left")
    ann.judge("3")  # a change of mind
    ann.close(address)

    samples, verdicts = state(review)
    assert samples[0].candidate_left == left
    mine = {each.sample: each for each in verdicts if each.reviewer == "Ann"}
    assert mine[1].verdict == ("worse" if left else "better")
    assert (mine[1].blind, mine[1].note) == (False, "kept 1 to 6 ?")
    assert mine[2].verdict == ("better" if samples[1].candidate_left else "unacceptable")
    assert mine[3].verdict == "same"
    assert mine[4].baseline_unacceptable == (not samples[3].candidate_left)
    assert len(verdicts) == 8
    with transaction() as connection:
        counts = reviews.verdict_counts(connection, "analyze_document", review.prompt_sha256)
        assert connection.execute(text("SELECT count(*) FROM prompt_verdicts")).scalar() == 9
    assert (counts.samples, counts.reviewers, counts.verdicts) == (4, 2, 8)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(browser: Browser, address: str, scheme: Any) -> None:
    """WCAG 2.2 asks for a contrast of 4.5 of text, here of every element that has some."""
    reader = Reader(browser, color_scheme=scheme)
    reader.begin(address, "Ann")
    poor = {}
    for path in ("", "samples/1", "samples/2", "samples/4"):
        reader.page.goto(address + path)
        for control in reader.page.locator("button, input, textarea, progress").all():
            labelled = "el => el.ariaLabel || el.labels?.length || el.innerText"
            assert control.evaluate(labelled), control
        poor |= reader.page.evaluate(CONTRAST)
    reader.close(address)
    assert poor == {}


def test_a_file_is_judged_by_keyboard_and_its_verdicts_come_back(
    browser: Browser, opened: tuple[Review, Path], address: str, tmp_path: Path
) -> None:
    review, inputs = opened
    file = tmp_path / "review.html"
    command.review("analyze_document", "1.2", inputs_file=inputs, export=file, port=0)
    cleo = Reader(browser)
    cleo.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cleo.page.goto(file.as_uri())
    assert "(candidate)" not in cleo.page.content()
    cleo.page.focus("#reviewer")
    cleo.page.keyboard.type("Cleo")
    cleo.press("Escape", "3", "j", "2", "n")
    cleo.page.keyboard.type(f"no {HOSTILE}")
    cleo.press("Escape", "u", "5", "u", "1")
    cleo.page.focus("#copy")
    cleo.press("Enter")
    cleo.page.wait_for_selector("text=Copied.")
    copied = cleo.page.evaluate("navigator.clipboard.readText()")
    cleo.close(file.as_uri())

    answer = tmp_path / "verdicts.json"
    answer.write_text(copied, encoding="utf-8")
    command.review(import_file=answer)

    samples, verdicts = state(review)
    choices = {each.sample: each for each in collected.read_collected(answer).verdicts}
    assert [choices[number].choice for number in (1, 2, 3, 4)] == [
        "right",
        "same",
        "both-unacceptable",
        "left",
    ]
    assert {each.reviewer for each in verdicts} == {"Cleo"}
    given = {each.sample: each for each in verdicts}
    assert given[1].verdict == ("worse" if samples[0].candidate_left else "better")
    assert given[2].note.startswith("no <img src=")
    assert given[3].verdict == "unacceptable"

    revealed = tmp_path / "revealed.html"
    command.review("analyze_document", "1.2", inputs_file=inputs, export=revealed, reveal=True)
    anyone = Reader(browser, color_scheme="dark")
    anyone.page.goto(revealed.as_uri())
    assert "What was said of 1.2 beside 1.1" in anyone.page.inner_text("main")
    assert anyone.page.locator("button[name=choice]").count() == 0
    anyone.close(revealed.as_uri())
