"""The gateway's page in a real browser: a key, a form, a result that grows, and what it cost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from api.page import POLICY
from sandbox import samples
from sandbox.claude.client import SimulatedClaude
from sandbox.service import Service
from sandbox.stack import Stack
from tests.browsing import CONTRAST, NEEDS_CHROMIUM, chromium
from tests.gateway import TICKET, Gateway
from worker.storage.engine import build_engine

HOSTILE = "</p><img src=http://192.0.2.1/x onerror=document.title='owned'>{{ 7 * 7 }}\u202eevil"
FLOWER = "http://127.0.0.1:5999"

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(stack: Stack, fleet_environment: dict[str, str], worker: Service) -> Iterator[Gateway]:
    """A gateway with samples and a Flower to link to, as `make up` has."""
    extra = {k: v for k, v in fleet_environment.items() if stack.environment.get(k) != v}
    extra |= {
        "CLAUDE_JOBS_API_FLOWER_URL": FLOWER,
        "CLAUDE_JOBS_API_SAMPLES_DIR": str(samples.FOLDER),
    }
    service = stack.start_api("api-page", **extra)
    engine = build_engine(fleet_environment["DATABASE_URL"])
    yield Gateway(stack.api_url, engine, service)
    service.stop()
    engine.dispose()


class Visitor:
    """Somebody with a browser; nothing may go wrong in it, and nothing be asked of others."""

    def __init__(self, browser: Browser, gateway: Gateway, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 900}} | options
        self.context: BrowserContext = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.url = gateway.url
        self.troubles: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def log_in(self, key: str) -> None:
        self.page.goto(self.url)
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.get_by_role("button", name="Continue").click()
        self.page.get_by_label("Task").wait_for()

    def end(self, state: str = "succeeded") -> None:
        expect(self.page.locator("#state")).to_have_text(state, timeout=20_000)

    def look(self, name: str) -> None:
        """Keep a picture, for whoever names a folder for them."""
        if folder := os.environ.get("PAGE_PICTURES"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def close(self, *expected: str) -> None:
        self.context.close()
        assert [t for t in self.troubles if not any(e in t for e in expected)] == []
        assert all(url.startswith(self.url) for url in self.asked), self.asked


@pytest.fixture
def visitor(browser: Browser, gateway: Gateway) -> Callable[..., Visitor]:
    return lambda **options: Visitor(browser, gateway, **options)


@pytest.fixture
def slow(claude: SimulatedClaude) -> Iterator[SimulatedClaude]:
    claude.configure(tokens_per_second=1500.0, chunk_tokens=4)
    yield claude
    claude.configure(latency=0.0, tokens_per_second=None, chunk_tokens=8)


#: Keeps the length of the output at each change of it, and whether elements of it were kept.
RECORD = """() => {
  const output = document.getElementById("output");
  window.lengths = [];
  new MutationObserver(() => {
    window.first ??= output.firstElementChild;
    window.lengths.push(output.textContent.length);
  }).observe(output, { subtree: true, childList: true, characterData: true });
}"""

#: Keeps what the line about the result has said.
SAID = """() => {
  window.said = [];
  new MutationObserver((changes) => window.said.push(changes.at(-1).target.textContent))
    .observe(document.getElementById("said"), { childList: true });
}"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_result_is_seen_growing_and_ends_with_what_it_cost(
    visitor: Callable[..., Visitor],
    gateway: Gateway,
    slow: SimulatedClaude,
    scheme: str,
    width: int,
) -> None:
    somebody = visitor(color_scheme=scheme, viewport={"width": width, "height": 900})
    somebody.log_in(gateway.key())
    page = somebody.page
    assert page.evaluate("sessionStorage.length + localStorage.length") == 1
    page.get_by_label("Task").select_option("analyze_document")
    page.get_by_label("Load a sample").select_option("0")
    assert len(page.get_by_label("Document", exact=True).input_value()) > 500
    somebody.look(f"form-{scheme}-{width}")
    page.evaluate(RECORD)
    page.get_by_label("Document type").press("Control+Enter")

    expect(page.get_by_role("status")).to_have_text("Claude is writing.")
    expect(page.locator("#output")).to_have_text(re.compile(r".{150}", re.DOTALL))
    assert page.locator("#output").get_attribute("aria-busy") == "true"
    somebody.look(f"writing-{scheme}-{width}")
    somebody.end()
    lengths = page.evaluate("window.lengths")
    assert len(lengths) > 10
    assert lengths == sorted(lengths)
    assert page.evaluate("window.first === document.getElementById('output').firstElementChild")
    # It is too long for its box, which followed what was written: now it is there to be read.
    assert page.evaluate("output.scrollHeight > output.clientHeight && output.scrollTop === 0")
    facts = page.locator("#facts").inner_text()
    job = page.url.partition("#")[2]
    with gateway.client(page.evaluate("sessionStorage.getItem('claude-jobs-key')")) as client:
        told = client.get(f"/v1/jobs/{job}").json()
    assert f"${told['usage']['cost_usd']}" in facts
    assert told["prompt_version"] in facts
    assert json.loads(page.locator("#raw").text_content() or "") == told["output"]
    assert page.locator("tbody tr").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CONTRAST) == {}
    somebody.look(f"done-{scheme}-{width}")
    for control in page.locator("button, input, textarea, select").all():
        assert control.evaluate("el => el.ariaLabel || el.labels?.length || el.textContent"), (
            control
        )

    page.reload()  # the key is still known, and the job is in the address
    somebody.end()
    page.get_by_role("button", name="Forget the key").click()
    assert page.evaluate("sessionStorage.length") == 0
    somebody.close()


def test_what_is_hostile_is_text(
    visitor: Callable[..., Visitor], gateway: Gateway, claude: SimulatedClaude
) -> None:
    reply = {"entities": [{"name": HOSTILE, "type": HOSTILE, "mentions": [HOSTILE], "context": ""}]}
    claude.faults({"reply": json.dumps(reply), "times": None})
    somebody = visitor()
    somebody.log_in(gateway.key())
    page = somebody.page
    page.get_by_label("Task").select_option("extract_entities")
    page.get_by_label("Text").fill(HOSTILE)
    page.get_by_label("Entity types").fill(f"{HOSTILE}\n\n people ")
    page.get_by_role("button", name="Enqueue").click()
    somebody.end()
    assert page.locator("#output").inner_text().count("<img src=http://192.0.2.1/x") == 3
    assert page.locator("img").count() == 0
    assert page.title() == "claude-jobs"
    assert page.get_by_role("link", name="Flower").get_attribute("href") == FLOWER
    somebody.look("hostile")
    somebody.close()


def test_what_was_begun_anew_is_cleared_and_what_failed_says_why(
    visitor: Callable[..., Visitor],
    gateway: Gateway,
    slow: SimulatedClaude,
    eventually: Callable[..., None],
) -> None:
    slow.configure(latency=0.2, tokens_per_second=100.0, chunk_tokens=2)
    slow.faults({"stream": True, "content": "wrong_type"})
    somebody = visitor()
    somebody.log_in(gateway.key())
    page = somebody.page
    page.get_by_label("Task").select_option("classify_ticket")
    page.evaluate(SAID)
    for name, value in (("Subject", "a"), ("Body", "b"), ("Categories", "x\ny")):
        page.get_by_label(name).fill(value)
    page.get_by_role("button", name="Enqueue").click()
    somebody.end()
    assert any("Beginning anew" in each for each in page.evaluate("window.said"))

    slow.faults({"stream": True, "status": 400})
    page.get_by_role("button", name="Enqueue").click()
    somebody.end("failed")
    assert "invalid_request_error" in page.locator("#job-trouble").inner_text()
    assert page.locator("#output").inner_text() == ""
    assert page.evaluate(CONTRAST) == {}
    somebody.look("failed")

    slow.faults({"stream": True, "cut": True, "at": {"events": 8}, "times": None})
    page.evaluate("window.said = []")
    page.get_by_role("button", name="Enqueue").click()
    # It may stand there for a moment only, before the next attempt is on its way.
    eventually(lambda: any("Beginning anew" in each for each in page.evaluate("window.said")))
    page.get_by_role("button", name="Cancel").click()
    somebody.end("cancelled")
    assert not page.locator("#job-trouble").is_visible()  # that it had lost a connection is no news
    somebody.close()


def test_all_can_be_done_by_keys(
    visitor: Callable[..., Visitor], gateway: Gateway, claude: SimulatedClaude
) -> None:
    somebody = visitor()
    page, keyboard = somebody.page, somebody.page.keyboard
    page.goto(gateway.url)
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    keyboard.type(gateway.key())
    keyboard.press("Enter")
    expect(page.get_by_label("Task")).to_be_focused()
    keyboard.type("summarize")
    expect(page.get_by_label("Audience")).to_be_attached()
    order = []
    while (focused := page.evaluate("document.activeElement.id")) != "refresh":
        order.append(focused)
        if focused == "sample":
            keyboard.press("ArrowDown")
        keyboard.press("Tab")
    form = page.locator("#fields").locator("input, textarea, select")
    fields = [each.get_attribute("id") for each in form.all()]
    assert order == ["task", "sample", *fields, "", "submit"]  # "" are the options, which are shut
    keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    somebody.end()
    keyboard.press("Tab")
    expect(page.locator("#output")).to_be_focused()
    expect(page.locator("#jobs tr")).to_have_count(1)
    page.get_by_role("button", name="Refresh").focus()
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(page.locator("#jobs button")).to_be_focused()
    somebody.end()
    somebody.close()


def test_a_lost_connection_is_taken_up_where_it_broke(
    visitor: Callable[..., Visitor], gateway: Gateway, slow: SimulatedClaude
) -> None:
    slow.configure(tokens_per_second=600.0)
    somebody = visitor()
    somebody.log_in(gateway.key())
    page = somebody.page
    resumed: list[str | None] = []
    page.on("request", lambda request: resumed.append(request.headers.get("last-event-id")))
    page.get_by_label("Task").select_option("analyze_document")
    page.get_by_label("Load a sample").select_option("0")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("#output")).to_have_text(re.compile(".{20}", re.DOTALL))
    gateway.process.kill()
    expect(page.get_by_role("status")).to_contain_text("The connection was lost")
    gateway.process.start()
    somebody.end()
    assert any(resumed)
    somebody.close("ERR_")  # which the browser itself notes


def test_what_is_wrong_is_said_where_it_is(
    visitor: Callable[..., Visitor], gateway: Gateway, claude: SimulatedClaude
) -> None:
    somebody = visitor()
    page = somebody.page
    page.goto(gateway.url)
    page.get_by_label("Key", exact=True).fill("cj_" + "x" * 43)
    page.get_by_label("Key", exact=True).press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server does not know this key.")
    somebody.log_in(gateway.key())
    page.get_by_label("Task").select_option("classify_ticket")
    page.get_by_label("Subject").fill("s" * 1001)
    page.get_by_label("Categories").fill("one")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_label("Categories")).to_have_attribute("aria-invalid", "true")
    assert "at least 2 items" in page.locator("#field-categories-trouble").inner_text()
    assert page.evaluate("document.activeElement.id") == "field-subject"
    assert page.evaluate(CONTRAST) == {}
    somebody.look("invalid")

    claude.configure(latency=20.0)
    page.get_by_label("Subject").fill(TICKET["subject"])  # type: ignore[arg-type]
    page.get_by_label("Categories").fill("one\ntwo")
    page.get_by_role("button", name="Enqueue").click()
    page.get_by_role("button", name="Cancel").click()
    somebody.end("cancelled")
    claude.configure(latency=0.0)
    somebody.close("401", "422")  # which the browser itself notes


def test_the_page_is_public_and_what_is_in_it_is_not(gateway: Gateway) -> None:
    with httpx2.Client(base_url=gateway.url) as anyone:
        for path in ("/", "/static/page.js", "/static/page.css", "/static/icon.svg"):
            answer = anyone.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"] == POLICY
        for path in ("/static/..%2fpage.py", "/static/page.py"):
            assert anyone.get(path).status_code == 404
        for path in ("/page/settings", "/page/samples/summarize_text"):
            assert anyone.get(path).status_code == 401
    with gateway.client() as client:
        assert client.get("/page/settings").json()["flower_url"] == FLOWER
        assert len(client.get("/page/samples/summarize_text").json()["samples"]) > 2
        assert client.get("/page/samples/judge_output").json() == {"samples": []}
        assert client.get("/page/samples/..%2fx").status_code == 404
