"""The review as one self-contained HTML file."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from worker.html import plain, shorten, source_hash, templates, visible
from worker.report import amounts, drawings
from worker.report.sentences import KIND_NAMES
from worker.report.weekly import WeeklyReview
from worker.report.wording import RATES, headline, rates, savings
from worker.storage.figures import ratio

_JOINTS = re.compile(r"(?<=[_/])(?=\w)")
_FOLDER = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = templates(_FOLDER / "templates")
    environment.filters |= {
        "dollars": amounts.dollars,
        "signed": amounts.signed,
        "percent": amounts.percent,
        "name": _name,
        "plain": plain,
    }
    environment.globals |= {
        "relative": amounts.relative,
        "rounded": amounts.rounded,
        "ratio": ratio,
        "cent": amounts.CENT,
        "kind_names": KIND_NAMES,
        "rates": RATES,
    }
    return environment


def _name(text: str) -> Markup:
    """A name, which may be broken after the characters that join its words."""
    return Markup("<wbr>").join(visible(part) for part in _JOINTS.split(shorten(text)))


@lru_cache(maxsize=1)
def stylesheet() -> str:
    """`report.css`."""
    return (_FOLDER / "static" / "report.css").read_text(encoding="utf-8")


def render(review: WeeklyReview) -> str:
    """The page. It loads nothing and runs nothing; whoever has it sees the figures."""
    css = stylesheet()
    drawn = not (review.empty and not review.compared)
    return (
        _environment()
        .get_template("report.html")
        .render(
            review=review,
            period=review.period,
            headline=headline(review),
            savings=savings(review),
            rows_of_rates=rates(review),
            drawn=drawn,
            charts=_charts(review) if drawn else {},
            css=Markup(css),  # noqa: S704 – our own file
            policy=f"default-src 'none'; style-src '{source_hash(css)}'; "
            "base-uri 'none'; form-action 'none'",
        )
    )


def _charts(review: WeeklyReview) -> dict[str, object]:
    weekly = {
        dimension: drawings.spend_by_week(review, dimension, lines)
        for dimension, lines in review.lines.items()
        if dimension != "user"
    }
    return {
        "days": drawings.spend_by_day(review),
        "effects": drawings.effects(review),
        "weekly": weekly,
        "tokens": drawings.tokens_by_week(review),
        "savings": drawings.savings_by_week(review),
        "rates": drawings.rates_by_week(review),
        "lengths": drawings.lengths_by_day(review),
    }
