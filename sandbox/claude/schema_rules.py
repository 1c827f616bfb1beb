"""What Claude's structured output accepts of JSON Schema.

More is refused here than `jsonschema` would refuse: a fake that is more lenient than the API would
let a task through that fails in production.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sandbox.claude.errors import ApiError

PATH = "output_config.format.schema"
MAX_OPTIONAL_PARAMETERS = 24
MAX_UNIONS = 16

_UNSUPPORTED = """
minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
minLength maxLength pattern
maxItems uniqueItems prefixItems contains minContains maxContains unevaluatedItems
minProperties maxProperties patternProperties propertyNames unevaluatedProperties
dependentRequired dependentSchemas if then else not
"""
UNSUPPORTED = frozenset(_UNSUPPORTED.split())
TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)

Schema = dict[str, Any]


def check_schema(schema: Any) -> None:
    """Raise a 400 that says what Claude would not accept in `schema`."""
    if not isinstance(schema, dict):
        raise _refused("Input should be a valid dictionary")
    definitions = {**schema.get("definitions", {}), **schema.get("$defs", {})}
    for name, definition in definitions.items():
        if name in _reachable(definition, definitions):
            raise _refused(f"Recursive schemas are not supported: '#/$defs/{name}'")
    optional = unions = 0
    for node in (schema, *definitions.values()):
        for part in _walk(node):
            _check_node(part, definitions)
            properties = part.get("properties", {})
            optional += len(properties.keys() - set(part.get("required", ())))
            unions += "anyOf" in part or isinstance(part.get("type"), list)
    if optional > MAX_OPTIONAL_PARAMETERS:
        raise _refused(
            f"Too many optional parameters ({optional}); the limit is {MAX_OPTIONAL_PARAMETERS}"
        )
    if unions > MAX_UNIONS:
        raise _refused(f"Too many parameters with union types ({unions}; limit: {MAX_UNIONS})")


def _check_node(node: Schema, definitions: dict[str, Any]) -> None:
    types = node.get("type")
    kind = types if isinstance(types, str) else "union"
    for type_ in types if isinstance(types, list) else [types]:
        if type_ is not None and type_ not in TYPES:
            raise _refused(f"Invalid type {json.dumps(type_)}")
    unsupported = sorted(UNSUPPORTED & node.keys())
    if unsupported:
        names = ", ".join(unsupported)
        raise _refused(f"For '{kind}' type, properties {names} are not supported")
    if node.get("minItems", 0) not in (0, 1):
        raise _refused("For 'array' type, 'minItems' values other than 0 or 1 are not supported")
    is_object = kind == "object" or "properties" in node
    if is_object and node.get("additionalProperties") is not False:
        raise _refused("For 'object' type, 'additionalProperties' must be explicitly set to false")
    if "format" in node and node["format"] not in FORMATS:
        raise _refused(f"String format '{node['format']}' is not supported")
    if any(isinstance(value, dict | list) for value in node.get("enum", ())):
        raise _refused("Complex types in enums are not supported")
    if "$ref" in node and _ref_name(node["$ref"]) not in definitions and node["$ref"] != "#":
        raise _refused(f"Invalid $ref '{node['$ref']}': only local definitions are supported")
    if node.get("$ref") == "#":
        raise _refused("Recursive schemas are not supported: '#'")


def _walk(node: Any) -> Iterator[Schema]:
    """`node` and every schema under it, without following references."""
    if not isinstance(node, dict):
        return
    yield node
    for keyword in ("anyOf", "oneOf", "allOf"):
        for variant in node.get(keyword, ()):
            yield from _walk(variant)
    for child in node.get("properties", {}).values():
        yield from _walk(child)
    yield from _walk(node.get("items"))


def _reachable(node: Any, definitions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    pending = [node]
    while pending:
        for part in _walk(pending.pop()):
            name = _ref_name(part.get("$ref"))
            if name and name not in found:
                found.add(name)
                pending.append(definitions.get(name))
    return found


def _ref_name(ref: Any) -> str:
    for prefix in ("#/$defs/", "#/definitions/"):
        if isinstance(ref, str) and ref.startswith(prefix):
            return ref.removeprefix(prefix)
    return ""


def _refused(message: str) -> ApiError:
    return ApiError(400, f"{PATH}: {message}")
