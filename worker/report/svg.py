"""Vega-Lite specifications drawn to SVG, by vl-convert: no browser, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import vl_convert
from markupsafe import Markup

#: Drawn for a phone; wider screens scale them up or set them side by side.
WIDTH, HEIGHT = 360, 210

_INK, _LINE = "currentColor", "var(--line)"
_CONFIG: dict[str, Any] = {
    "background": None,
    "view": {"stroke": None},
    "font": "sans-serif",
    "axis": {
        "labelColor": _INK,
        "labelFontSize": 12,
        "titleColor": _INK,
        "gridColor": _LINE,
        "domainColor": _LINE,
        "tickColor": _LINE,
        "labelAngle": 0,
        "title": None,
    },
    "axisY": {"domain": False, "ticks": False, "tickCount": 4},
    "axisX": {"grid": False, "ticks": False, "labelPadding": 5},
    "text": {"color": _INK, "fontSize": 12},
}
#: The chart is one image to a screen reader; its parts are not read out.
_ROLES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')


def draw(
    spec: Mapping[str, Any],
    title: str,
    description: str,
    *,
    height: int = HEIGHT,
    left: int = 2,
) -> Markup:
    """The SVG of a chart, which says in words what it shows to those who cannot see it.

    `left` is room for words on the left beyond what they need in the font that measures them.
    """
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": left, "right": 14, "top": 6, "bottom": 2},
        "config": _CONFIG,
        **spec,
    }
    drawn = vl_convert.vegalite_to_svg(whole, allowed_base_urls=[])
    body = _ROLES.sub("", drawn[drawn.index(">") + 1 :])
    head = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>'
    ).format(WIDTH, height, title, title, description)
    return head + Markup(body)  # noqa: S704 – drawn from numbers and words of our own
