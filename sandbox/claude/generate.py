"""A value for a JSON schema: valid, deterministic and about the user's text.

Limits that structured output does not enforce (`minimum`, `maxLength`, …) are honoured when they
stand in a `description` as the SDK's `transform_schema` writes them – `{minimum: 0, maximum: 1}` –
because the real model reads them there too.
"""

from __future__ import annotations

import datetime
import math
import random
import re
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sandbox.claude.patterns import text_matching
from sandbox.claude.prose import Prose

Schema = Mapping[str, Any]

_HINT = re.compile(
    r"\b(minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf"
    r"|minLength|maxLength|minItems|maxItems): (-?\d+(?:\.\d+)?)"
)
_PATTERN = re.compile(r"\bpattern: (.+?)(?:, \w+: .*)?\}$")
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

_STYLES = {
    word: style
    for style, words in {
        "title": "title name heading headline subject label company organization",
        "person": "owner author person assignee speaker contact",
        "keyword": "tag keyword topic category entity term theme type kind",
        "sentence": "quote evidence excerpt sentence text question answer point finding reason "
        "risk action item step claim recommendation",
        "paragraph": "summary description body content analysis explanation rationale reasoning "
        "overview abstract details paragraph",
        "language": "language lang locale",
        "currency": "currency",
        "date": "date day deadline",
        "email": "email",
        "uri": "url uri link website",
    }.items()
    for word in words.split()
}
_FIXED = {"language": "en", "currency": "USD"}
_RATIO_NAMES = frozenset(("confidence", "score", "probability", "ratio", "share", "likelihood"))


class Generator:
    """Makes values for one root schema."""

    def __init__(self, root: Schema, prose: Prose, rng: random.Random) -> None:
        self._definitions = {**root.get("definitions", {}), **root.get("$defs", {})}
        self._root = root
        self._prose = prose
        self._rng = rng

    def value(self) -> Any:
        """A value for the root schema."""
        return self._value(self._root, "")

    def _value(self, schema: Schema, name: str) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        variants = schema.get("anyOf") or schema.get("oneOf")
        if variants:
            return self._value(self._chosen(variants), name)
        type_ = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(type_, list):
            return self._value(self._chosen([{**schema, "type": one} for one in type_]), name)
        make: Callable[[Schema, str], Any] = getattr(self, f"_{type_}")
        return make(schema, name)

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._definitions[schema["$ref"].rsplit("/", 1)[-1]]
        if "allOf" not in schema:
            return schema
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in map(self._resolved, schema["allOf"]):
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", ()), *part.get("required", ())]
            merged |= part
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _chosen(self, variants: list[Schema]) -> Schema:
        """One variant: `null` now and then; a number if it may be one or text, as `Decimal` may."""
        values = [variant for variant in variants if variant.get("type") != "null"]
        if not values or (len(values) < len(variants) and self._rng.random() < 0.15):
            return {"type": "null"}
        numbers = [variant for variant in values if variant.get("type") == "number"]
        return self._rng.choice(numbers or values)

    def _object(self, schema: Schema, name: str) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        return {
            key: self._value(child, key)
            for key, child in schema.get("properties", {}).items()
            if key in required or self._rng.random() < 0.85
        }

    def _array(self, schema: Schema, name: str) -> list[Any]:
        limits = _limits(schema)
        low = int(limits.get("minItems", 2))
        high = int(limits.get("maxItems", max(low, 4)))
        items = schema.get("items", {"type": "string"})
        values: list[Any] = []
        for _ in range(self._rng.randint(min(low, high), high)):
            value = self._value(items, _singular(name))
            for _ in range(4):  # repeated items look wrong, yet a short text may offer no others
                if value not in values:
                    break
                value = self._value(items, _singular(name))
            values.append(value)
        return values

    def _string(self, schema: Schema, name: str) -> str:
        if "format" in schema:
            return self._formatted(schema["format"])
        pattern = _PATTERN.search(schema.get("description", ""))
        text = text_matching(pattern[1], self._rng) if pattern else None
        if text is not None:
            return text
        text = self._prose.listed(name) or self._styled(_style(name))
        limits = _limits(schema)
        while len(text) < limits.get("minLength", 0):
            text = f"{text} {self._prose.sentence()}"
        return _shortened(text, limits.get("maxLength"))

    def _styled(self, style: str) -> str:
        match style:
            case "title" | "keyword" | "person" | "sentence" | "paragraph":
                text: str = getattr(self._prose, style)()
            case "date" | "email" | "uri":
                text = self._formatted(style)
            case _:
                text = _FIXED.get(style) or self._prose.phrase()
        return text

    def _formatted(self, format_: str) -> str:
        bits = self._rng.getrandbits(32)
        moment = _EPOCH + datetime.timedelta(minutes=bits % 500_000)
        word = "".join(c for c in self._prose.keyword().split()[0] if c.isascii()) or "example"
        return {
            "date-time": moment.isoformat().replace("+00:00", "Z"),
            "date": moment.date().isoformat(),
            "time": moment.time().isoformat() + "Z",
            "duration": f"P{bits % 28 + 1}D",
            "email": f"{word}@example.com",
            "hostname": f"{word}.example.com",
            "uri": f"https://example.com/{word}",
            "ipv4": f"192.0.2.{bits % 254 + 1}",
            "ipv6": f"2001:db8::{bits % 0xFFFF:x}",
            "uuid": str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
        }.get(format_, word)

    def _integer(self, schema: Schema, name: str) -> int:
        limits = _limits(schema)
        step = int(limits.get("multipleOf", 1)) or 1
        low = int(limits.get("minimum", limits.get("exclusiveMinimum", 0) + 1))
        high = int(limits.get("maximum", limits.get("exclusiveMaximum", low + 10) - 1))
        if "minimum" not in limits and "exclusiveMinimum" not in limits:
            low = min(low, high)
        first = -(-low // step)
        return step * self._rng.randint(first, max(first, high // step))

    def _number(self, schema: Schema, name: str) -> float:
        limits = _limits(schema)
        low = limits.get("minimum", limits.get("exclusiveMinimum", 0.0))
        span = 1.0 if _parts(name) & _RATIO_NAMES else 100.0
        high = limits.get("maximum", limits.get("exclusiveMaximum", low + span))
        low = min(low, high)
        if step := limits.get("multipleOf"):
            return step * self._rng.randint(math.ceil(low / step), math.floor(high / step))
        value = round(self._rng.uniform(low, high), 2)
        # Rounding must not push a value onto or over a limit.
        return value if low < value < high else (low + high) / 2

    def _boolean(self, schema: Schema, name: str) -> bool:
        return self._rng.random() < 0.5

    def _null(self, schema: Schema, name: str) -> None:
        return None


def _limits(schema: Schema) -> dict[str, float]:
    limits = _hinted(schema.get("description", ""))
    if "minItems" in schema:
        limits = {"minItems": max(1, schema["minItems"]), **limits}
    return limits


@lru_cache(maxsize=2048)
def _hinted(description: str) -> dict[str, float]:
    return {key: float(value) for key, value in _HINT.findall(description)}


@lru_cache(maxsize=2048)
def _parts(name: str) -> frozenset[str]:
    return frozenset(part.lower() for part in _NAME_PART.findall(name))


@lru_cache(maxsize=2048)
def _style(name: str) -> str:
    """How a field of this name is usually filled; the last word of the name says most."""
    for part in reversed(_NAME_PART.findall(name)):
        for word in (part.lower(), _singular(part.lower())):
            if word in _STYLES:
                return _STYLES[word]
    return "phrase"


def _singular(name: str) -> str:
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def _shortened(text: str, limit: float | None) -> str:
    if limit is None or len(text) <= limit:
        return text
    cut = text[: int(limit)]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut).rstrip(" ,;:–-") or cut
