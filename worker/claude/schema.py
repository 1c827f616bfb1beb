"""The output model as the API takes it – and what it does not take, said early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anthropic import transform_schema
from pydantic import BaseModel

from worker.errors import ConfigurationError

#: The API's limits on a schema of structured output.
MOST_OPTIONALS = 24
MOST_UNIONS = 16


def for_api(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of `model` for `output_config.format`.

    Bounds and patterns move into descriptions: the API does not enforce them, Pydantic does when
    the reply is read.

    Raises:
        ConfigurationError: the model holds something that the API's schemas cannot express; the
            message names the field and the remedy.
    """
    if problem := next(lint(model), None):
        raise ConfigurationError(f"{model.__module__}.{model.__qualname__}: {problem}")
    try:
        return transform_schema(model)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{model.__module__}.{model.__qualname__} cannot be sent as an output schema: {error}"
        ) from None


def lint(model: type[BaseModel]) -> Iterator[str]:
    """What the API cannot hold in the schema of `model`, as `path: what; remedy`."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    optionals = unions = 0
    for path, node, ancestors in _walk(schema, definitions):
        where = path or "(the model)"
        if node in ancestors:
            yield f"{where}: refers to itself; nest a fixed number of levels instead"
            continue
        yield from _problems(where, node)
        properties = node.get("properties", {})
        optionals += len(properties) - len(node.get("required", ()))
        unions += "anyOf" in node or "oneOf" in node
    if optionals > MOST_OPTIONALS:
        yield (
            f"(the model): {optionals} optional fields, the API takes {MOST_OPTIONALS}; "
            "make some required, with an empty value for `nothing`"
        )
    if unions > MOST_UNIONS:
        yield (
            f"(the model): {unions} unions (each `X | None` is one), the API takes {MOST_UNIONS}; "
            "use an empty value instead of None"
        )


def _problems(where: str, node: dict[str, Any]) -> Iterator[str]:
    known = ("type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref")
    if not any(key in node for key in known):
        yield f"{where}: Any can hold anything; say what it holds"
    if "prefixItems" in node:
        yield f"{where}: a tuple loses the types of its items; use a model with named fields"
    if node.get("type") == "array" and "items" not in node and "prefixItems" not in node:
        yield f"{where}: a list of anything; say what its items are"
    if node.get("type") == "object":
        extra = node.get("additionalProperties")
        if isinstance(extra, dict) or extra is True or "properties" not in node:
            yield f"{where}: a map with free keys; use a list of pairs, [{{key, value}}]"


def _walk(
    schema: dict[str, Any], definitions: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Every node of a schema with its path and its ancestors; a node that recurs is not entered."""
    pending: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [("", schema, [])]
    while pending:
        path, node, ancestors = pending.pop(0)
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        yield path, node, ancestors
        if node in ancestors:
            continue
        below = [*ancestors, node]
        for name, child in node.get("properties", {}).items():
            pending.append((f"{path}.{name}".lstrip("."), child, below))
        if isinstance(node.get("items"), dict):
            pending.append((f"{path}[]", node["items"], below))
        for key in ("anyOf", "oneOf", "allOf"):
            pending += [(path, option, below) for option in node.get(key, ())]
