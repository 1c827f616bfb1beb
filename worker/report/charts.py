"""The charts of the page, as Vega-Lite specifications.

No text of others gets into them: series are letters, which the legend beside the chart explains.
Colours are the page's own variables, so that one drawing does for both themes and for paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.report.amounts import signed
from worker.report.sentences import KIND_NAMES
from worker.report.weekly import Day, WeeklyReview

LETTERS = "ABCDEFG"
#: Series that have a colour; one more is for all others.
MOST_SERIES = len(LETTERS) - 1

_INK, _PAPER, _ON = "currentColor", "var(--paper)", "var(--on-series)"
_COLOURS = [f"var(--series-{n})" for n in range(1, len(LETTERS) + 1)]
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3], [10, 4]]
#: A letter needs a segment so high, of the chart's height.
_ROOM_FOR_LETTER = 0.075

#: Billions are B, and not giga.
_MONEY, _COUNT = (
    {"labelExpr": f"replace(format(datum.value, '{form}'), 'G', 'B')"} for form in ("$~s", "~s")
)
#: Of the chart of effects: pixels for bars and amounts, and a letter of an amount.
_EFFECT_WIDTH, _LETTER_WIDTH = 210, 8


@dataclass(frozen=True, slots=True)
class Series:
    """A row of numbers, by week or by day; None where there is none."""

    name: str
    values: Sequence[float | None]


def stacked(weeks: Sequence[str], series: Sequence[Series], *, dollars: bool) -> dict[str, Any]:
    """Bars by week, a segment for each series, in the order of the legend from below."""
    sums = [sum(max(each.values[n] or 0, 0) for each in series) for n in range(len(weeks))]
    least = max(sums, default=0.0) * _ROOM_FOR_LETTER
    values = [
        {
            "week": week,
            "series": letter,
            "order": order,
            "value": each.values[n] or 0,
            "letter": letter if (each.values[n] or 0) >= least > 0 else "",
        }
        for order, (letter, each) in enumerate(zip(LETTERS, series, strict=False))
        for n, week in enumerate(weeks)
    ]
    place = {
        "x": _weeks(weeks),
        "y": {
            "field": "value",
            "type": "quantitative",
            "stack": "zero",
            "axis": _MONEY if dollars else _COUNT,
        },
        "order": {"field": "order"},
    }
    return {
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "bar", "stroke": _PAPER, "strokeWidth": 1},
                "encoding": {**place, "color": _colour(len(series))},
            },
            {
                "mark": {"type": "text", "color": _ON, "fontWeight": "bold"},
                "encoding": {
                    **place,
                    "y": {**place["y"], "bandPosition": 0.5},
                    "text": {"field": "letter"},
                    "detail": {"field": "series"},
                },
            },
        ],
    }


def lines(
    ticks: Sequence[str],
    series: Sequence[Series],
    *,
    form: str,
    marks: Mapping[str, str] = {},
    every: int = 1,
) -> dict[str, Any]:
    """A line for each series, by week or by day, with its letter at the end.

    `marks` are moments to point out, by tick, with what stands at them. Of the ticks, one in
    `every` has a label.
    """
    values, ends = [], []
    for letter, each in zip(LETTERS, series, strict=False):
        known = [(n, value) for n, value in enumerate(each.values) if value is not None]
        values += [{"at": ticks[n], "value": value, "series": letter} for n, value in known]
        ends += [{"at": ticks[n], "value": value, "series": letter} for n, value in known[-1:]]
    x = {
        "field": "at",
        "type": "ordinal",
        "scale": {"domain": list(ticks)},
        "axis": {"values": list(ticks[::every]), "labelOverlap": True},
    }
    y = {"field": "value", "type": "quantitative", "axis": {"format": form}}
    colour = _colour(len(series))
    dash = {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(LETTERS[: len(series)]), "range": _DASHES[: len(series)]},
    }
    layers: list[dict[str, Any]] = []
    if marks:
        noted = [{"at": at, "note": note} for at, note in marks.items()]
        layers.append(
            {
                "data": {"values": noted},
                "mark": {"type": "rule", "color": _INK, "strokeDash": [1, 2]},
                "encoding": {"x": x},
            }
        )
        # Beside the line, where there is room; down there, replies are too short to be in the way.
        early = ticks[: len(ticks) // 4]
        for align, shift, there in (("left", 3, early), ("right", -3, ticks[len(early) :])):
            note = {"type": "text", "align": align, "baseline": "bottom", "dx": shift, "dy": -2}
            layers.append(
                {
                    "data": {"values": [each for each in noted if each["at"] in there]},
                    "mark": {**note, "y": "height"},
                    "encoding": {"x": x, "text": {"field": "note"}},
                }
            )
    layers += [
        {
            "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 14, "filled": True}},
            "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
        },
        {
            "data": {"values": ends},
            "mark": {"type": "text", "align": "left", "dx": 6, "fontWeight": "bold"},
            "encoding": {"x": x, "y": y, "text": {"field": "series"}, "color": colour},
        },
    ]
    return {"data": {"values": values}, "layer": layers}


def by_day(days: Sequence[Day]) -> dict[str, Any]:
    """Two bars a day: hollow for the same day a week earlier, full for this week."""
    labels = [f"{each.day:%a}" for each in days]
    values = [
        {"day": label, "which": which, "usd": float(usd)}
        for label, each in zip(labels, days, strict=True)
        for which, usd in (("before", each.cost_usd_before), ("now", each.cost_usd))
    ]
    which = {"field": "which", "type": "nominal", "legend": None}
    domain = ["before", "now"]
    return {
        "data": {"values": values},
        "mark": {"type": "bar", "strokeWidth": 1.5},
        "encoding": {
            "x": {
                "field": "day",
                "type": "ordinal",
                "scale": {"domain": labels, "paddingInner": 0.25},
            },
            "xOffset": {"field": "which", "scale": {"domain": domain, "paddingInner": 0.1}},
            "y": {"field": "usd", "type": "quantitative", "axis": _MONEY},
            "fill": {**which, "scale": {"domain": domain, "range": [_PAPER, _COLOURS[0]]}},
            "stroke": {**which, "scale": {"domain": domain, "range": [_COLOURS[6], _COLOURS[0]]}},
        },
    }


def effects(review: WeeklyReview) -> dict[str, Any]:
    """A bar for each kind of effect, to the right where it cost more; amounts are on the right."""
    shown = [(KIND_NAMES[kind], usd) for kind, usd in review.kinds if usd]
    amounts = [float(usd) for _, usd in shown]
    values = [
        {"effect": name, "usd": amount, "label": signed(usd), "end": max(amount, 0.0)}
        for (name, usd), amount in zip(shown, amounts, strict=True)
    ]
    least, most = min(0.0, *amounts), max(0.0, *amounts)
    # Room for the longest amount beside the longest bar.
    label = min(0.7, _LETTER_WIDTH * max(len(signed(usd)) for _, usd in shown) / _EFFECT_WIDTH)
    y = {
        "field": "effect",
        "type": "ordinal",
        "sort": None,
        "axis": {"domain": False, "labelLimit": 150, "labelPadding": 8},
    }
    x = {
        "type": "quantitative",
        "scale": {"domain": [least, least + (most - least) / (1 - label)], "nice": False},
        "axis": {"grid": True, "tickCount": 4, **_MONEY},
    }
    colour = {
        "condition": {"test": "datum.usd > 0", "value": "var(--more)"},
        "value": "var(--less)",
    }
    return {
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "bar"},
                "encoding": {"x": {"field": "usd", **x}, "y": y, "color": colour},
            },
            {
                "mark": {"type": "text", "fontWeight": "bold", "align": "left", "dx": 4},
                "encoding": {"x": {"field": "end", **x}, "y": y, "text": {"field": "label"}},
            },
        ],
    }


def _weeks(weeks: Sequence[str]) -> dict[str, Any]:
    return {"field": "week", "type": "ordinal", "scale": {"domain": list(weeks)}}


def _colour(count: int) -> dict[str, Any]:
    return {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(LETTERS[:count]), "range": _COLOURS[:count]},
    }
