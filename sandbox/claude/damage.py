"""Replies that do not keep to their schema, although the API promises that they do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.claude.faults import Content


def damaged(text: str, schema: Mapping[str, Any] | None, content: Content) -> str:
    """`text` with the named thing wrong with it; unchanged where that cannot be."""
    match content:
        case "fenced":
            return f"```json\n{text}\n```"
        case "prose":
            return f"Here is the result:\n\n{text}\n\nLet me know if you need anything else."
        case "truncated":
            return text[: len(text) // 2]
        case "missing_field" | "wrong_type" | "capitalised_enum" if schema is not None:
            return _broken_value(text, schema, content)
    return text


def _broken_value(text: str, schema: Mapping[str, Any], content: Content) -> str:
    try:
        value = json.loads(text)
    except ValueError:  # a literal `reply` need not be JSON
        return text
    for holder, key, part in _members(value, schema, schema):
        match content:
            case "missing_field":
                del holder[key]
            case "wrong_type" if "enum" not in part:
                holder[key] = ["unexpected"] if not isinstance(holder[key], list) else "unexpected"
            case "capitalised_enum" if "enum" in part and _is_lower(holder[key]):
                holder[key] = holder[key].upper()
            case _:
                continue
        break
    return json.dumps(value, ensure_ascii=False)


def _is_lower(value: object) -> bool:
    return isinstance(value, str) and value != value.upper()


def _members(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Iterator[tuple[Any, Any, Mapping[str, Any]]]:
    """Every required member of every object in `value`: its holder, its key, its schema."""
    for part in _alternatives(schema, root):
        if isinstance(value, list):
            for index, item in enumerate(value):
                items = part.get("items", {})
                for alternative in _alternatives(items, root):
                    if "enum" in alternative:
                        yield value, index, alternative
                yield from _members(item, items, root)
        elif isinstance(value, dict):
            properties = part.get("properties", {})
            for key in [key for key in value if key in part.get("required", ())]:
                for alternative in _alternatives(properties[key], root):
                    yield value, key, alternative
            for key, child in properties.items():
                if key in value:
                    yield from _members(value[key], child, root)


def _alternatives(
    schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    if "$ref" in schema:
        definitions = {**root.get("definitions", {}), **root.get("$defs", {})}
        yield from _alternatives(definitions[schema["$ref"].rsplit("/", 1)[-1]], root)
        return
    variants = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    for variant in variants:
        yield from _alternatives(variant, root)
    if not variants:
        yield schema
