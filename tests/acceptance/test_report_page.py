"""The weekly review's page in a real browser: both themes, a phone, paper; loading nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine, text

from sandbox import history
from tests.browsing import CONTRAST, NEEDS_CHROMIUM, chromium
from tests.usage_rows import MONDAY_BEFORE, TUESDAY, call, job
from worker.report.collect import collect
from worker.report.page import render
from worker.report.period import Period
from worker.storage.engine import build_engine, transaction

pytestmark = NEEDS_CHROMIUM

PERIOD = Period(MONDAY_BEFORE.date().replace(day=16))
HOSTILE = (
    "<script>document.title='owned'</script><img src=http://192.0.2.1/x onerror=alert(1)>"
    "</svg></style>{{ 7 * 7 }}\u202e\u0001&amp;" + "x" * 2000
)

#: Texts of charts whose contrast with the paper, or with the segment they stand on, is too low.
CHART_CONTRAST = CONTRAST.replace(
    """for (const element of document.querySelectorAll("body *")) {""",
    """for (const element of document.querySelectorAll("figure svg text")) {
    if (element.closest('[opacity="0"]') || !element.textContent.trim()) continue;
    element.scrollIntoView({block: "center"});
    const at = element.getBoundingClientRect();
    const below = document.elementsFromPoint(at.x + at.width / 2, at.y + at.height / 2)
      .find((e) => e.closest(".mark-rect") && e.getAttribute("fill")?.startsWith("var("));
    const under = below ? rgb(getComputedStyle(below).fill) : ground(element);
    const [p, q] = [luminance(rgb(getComputedStyle(element).fill)), luminance(under)];
    const seen = (Math.max(p, q) + 0.05) / (Math.min(p, q) + 0.05);
    if (seen < 4.5) poor[element.textContent] = seen.toFixed(2);
    continue;""",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def engine(environment: dict[str, str], producer: None) -> Iterator[Engine]:
    """A fresh database, whose prices are this process's."""
    made = build_engine(environment["DATABASE_URL"])
    yield made
    made.dispose()


def written(engine: Engine, folder: Path) -> Path:
    """The page of the reviewed week."""
    with transaction(engine) as connection:
        review = collect(connection, PERIOD)
    file = folder / "review.html"
    file.write_text(render(review), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def sample(fleet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four weeks that never happened."""
    engine = build_engine(fleet_environment["DATABASE_URL"])
    with transaction(engine) as connection:
        history.fill(connection, PERIOD.start, scale=0.1)
    file = written(engine, tmp_path_factory.mktemp("sample"))
    engine.dispose()
    return file


class Reader:
    """Opens the page; nothing may be asked of anybody, and nothing may go wrong."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self.page: Page = self._context.new_page()
        self._file = file
        self._troubles: list[str] = []
        self._asked: list[str] = []
        self.page.on("console", lambda message: self._troubles.append(message.text))
        self.page.on("pageerror", lambda error: self._troubles.append(str(error)))
        self.page.on("request", lambda request: self._asked.append(request.url))
        self.page.goto(file.as_uri())

    def close(self) -> None:
        self._context.close()
        assert self._troubles == []
        assert self._asked == [self._file.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_stand_out_from_their_ground(browser: Browser, sample: Path, scheme: Any) -> None:
    reader = Reader(browser, sample, color_scheme=scheme)
    reader.page.eval_on_selector_all("details", "all => all.forEach((each) => each.open = true)")
    assert reader.page.locator("figure svg").count() == 13
    assert reader.page.evaluate(CONTRAST) == {}
    assert reader.page.evaluate(CHART_CONTRAST) == {}
    reader.close()


def test_the_page_says_what_happened(browser: Browser, sample: Path) -> None:
    reader = Reader(browser, sample)
    page = reader.page
    assert page.title() == "Weekly review 2026-W47"
    assert re.search(r"more than the week before\.$", page.inner_text("h1"))
    first = page.inner_text(".causes li >> nth=0")
    assert "summarize_text/1.3, released on Tuesday by ana" in first
    # A chart is an image with a name, and has its numbers beside it.
    for chart in page.locator("figure svg").all():
        assert chart.get_attribute("role") == "img"
        assert chart.get_attribute("aria-label")
        assert chart.locator("title").count() == 1
        assert chart.locator("desc").count() == 1
    drawn = page.inner_text("figure:has-text('Dollars by week and task')")
    for task in (kind.task for kind in history.KINDS):
        assert task in drawn
    reader.close()


def test_a_phone_scrolls_in_one_direction_only(browser: Browser, sample: Path) -> None:
    reader = Reader(browser, sample, viewport={"width": 360, "height": 740})
    page = reader.page
    page.eval_on_selector_all("details", "all => all.forEach((each) => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # Tables outside of "The numbers" fit as they are.
    wide = page.eval_on_selector_all(
        ".wide", "all => all.filter((e) => !e.closest('details') && e.scrollWidth > e.clientWidth)"
        ".map((e) => e.ariaLabel)",
    )  # fmt: skip
    assert wide == []
    smallest = page.eval_on_selector_all(
        "figure svg text",
        "all => Math.min(...all.map((e) => e.getBoundingClientRect().height).filter(Boolean))",
    )
    assert smallest > 10
    reader.close()


def test_on_paper_nothing_is_dark_or_cut(browser: Browser, sample: Path) -> None:
    reader = Reader(browser, sample, color_scheme="dark", viewport={"width": 690, "height": 1000})
    page = reader.page
    page.emulate_media(media="print")
    grounds = page.evaluate(
        "() => [...new Set([...document.querySelectorAll('body, body *:not(.swatch)')]"
        ".map((e) => getComputedStyle(e).backgroundColor))]"
    )
    assert grounds == ["rgba(0, 0, 0, 0)"]
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 29, 32)"
    assert page.evaluate("document.documentElement.scrollWidth") == 690
    cut = "all => all.filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth).length"
    assert page.eval_on_selector_all(".wide", cut) == 0
    paper = page.pdf(prefer_css_page_size=True)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 8
    assert b"/MediaBox [0 0 594.9" in paper  # A4
    reader.close()


def test_hostile_names_are_inert(browser: Browser, engine: Engine, tmp_path: Path) -> None:
    with transaction(engine) as connection:
        for at in (TUESDAY, MONDAY_BEFORE):
            for prompt in (HOSTILE, "p", "q"):
                columns = {"task": HOSTILE, "prompt": prompt, "prompt_version": HOSTILE[:90]}
                call(
                    connection,
                    9,
                    user_id=HOSTILE,
                    model=HOSTILE,
                    cost_usd="1",
                    created_at=at,
                    **columns,
                )
        call(connection, job_id=job(connection, 1), task=HOSTILE, user_id=HOSTILE, prompt=HOSTILE)
        call(connection, task="t", prompt=HOSTILE, model=HOSTILE, cost_usd=None)
        connection.execute(
            text("""
            INSERT INTO prompt_releases (prompt, kind, weights, sha256, allocation, released_by,
                                         reason, created_at)
            VALUES (:x, 'release', jsonb_build_object(cast(:x AS text), 100), '{}', '[["1", 0, 1]]',
                    :x, :x, :at)
            """),
            {"x": HOSTILE, "at": TUESDAY},
        )
        connection.execute(
            text("INSERT INTO alerts (kind, subject, message, details, first_at, last_at)"
                 " VALUES (:x, :x, :x, '{}', :at, :at)"),
            {"x": HOSTILE, "at": TUESDAY},
        )  # fmt: skip
    file = written(engine, tmp_path)

    reader = Reader(browser, file, viewport={"width": 360, "height": 740})
    page = reader.page
    assert page.title() == "Weekly review 2026-W47"
    assert page.locator("img, script, iframe, object, a[href^=http]").count() == 0
    assert page.locator("style").count() == 1
    assert "\u202e" not in page.content()
    assert "document.title='owned'" in page.inner_text("main")
    assert "49" not in page.inner_text("section >> nth=1")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    reader.close()


def test_the_first_week_and_an_empty_one(browser: Browser, engine: Engine, tmp_path: Path) -> None:
    reader = Reader(browser, written(engine, tmp_path))
    assert reader.page.inner_text("h1") == "Nothing was asked and nothing was spent."
    assert reader.page.locator("figure").count() == 0
    reader.close()

    with transaction(engine) as connection:
        call(connection)
    reader = Reader(browser, written(engine, tmp_path))
    assert reader.page.locator(".causes").count() == 0
    assert reader.page.locator("figure svg").count() > 5
    assert "NaN" not in reader.page.inner_text("main")
    reader.close()
