"""Reading a reply: from its text to an output, or to the reason why there is none.

A pure function of the message and the output model. It never raises, and takes time linear in the
length of the text, whatever the text is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from worker.claude.reply import Reply
from worker.engine.checks import problems_of, unstorable


@dataclass(frozen=True, slots=True)
class Valid:
    """The text is the JSON of an output."""

    output: BaseModel


@dataclass(frozen=True, slots=True)
class Salvaged:
    """An output, in a text that was not quite what was asked for; `how` says in which way."""

    output: BaseModel
    how: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """No output of the model's; what is wrong, by path."""

    problems: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Truncated:
    """Cut off by a limit on tokens: what is there is not worth repairing."""

    limit: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Claude declined; `category` where the API names one."""

    category: str | None = None


@dataclass(frozen=True, slots=True)
class Empty:
    """No text at all; `stop_reason` says why Claude stopped."""

    stop_reason: str | None


Reading = Valid | Salvaged | Invalid | Truncated | Refused | Empty

_TRUNCATING = ("max_tokens", "model_context_window_exceeded")
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n")


def read_reply(reply: Reply, model: type[BaseModel]) -> Reading:
    """What `reply` holds, judged against the output model."""
    if reply.stop_reason == "refusal":
        return Refused(reply.refusal_category)
    if reply.stop_reason in _TRUNCATING:
        return Truncated(reply.stop_reason)
    if not reply.text.strip() or reply.stop_reason == "pause_turn":
        return Empty(reply.stop_reason)
    first = _validated(reply.text, model)
    if isinstance(first, BaseModel):
        return Valid(first)
    for how, candidate in _candidates(reply.text):
        output = _validated(candidate, model)
        if not isinstance(output, BaseModel):
            output = _validated(_with_enums_spelled(candidate, model), model)
        if isinstance(output, BaseModel):
            return Salvaged(output, how)
    # Listed once, for the reply as it came: what is wrong with each candidate helps nobody.
    return Invalid(problems_of(first)[:50] if isinstance(first, ValidationError) else first)


def _validated(
    text: str | None, model: type[BaseModel]
) -> BaseModel | ValidationError | list[dict[str, str]]:
    if text is None:
        return []
    try:
        output = model.model_validate_json(text)
    except ValidationError as error:
        return error
    if problem := unstorable(output.model_dump()):
        path, _, what = problem.partition(": ")
        return [{"path": path, "problem": what}]
    return output


def _candidates(text: str) -> list[tuple[str, str]]:
    """What may be the JSON in `text`, the likeliest first; each is found in one pass."""
    found = []
    fence = _FENCE.search(text)
    if fence is not None:
        end = text.find("```", fence.end())
        found.append(
            ("the JSON stood in a Markdown fence", text[fence.end() : end if end > 0 else None])
        )
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        surrounded = text[:start].strip() or text[end + 1 :].strip()
        how = "there was text around the JSON" if surrounded else "values were spelled differently"
        found.append((how, text[start : end + 1]))
    return found


def _with_enums_spelled(text: str, model: type[BaseModel]) -> str | None:
    """`text` with enum values that differ only in capitalisation spelled as the model has them."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    try:
        return json.dumps(_respelled(document, model))
    except RecursionError:
        return None


def _respelled(value: Any, annotation: Any) -> Any:
    if (
        isinstance(value, dict)
        and isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
    ):
        fields = annotation.model_fields
        return {
            key: _respelled(item, fields[key].annotation) if key in fields else item
            for key, item in value.items()
        }
    if isinstance(value, list) and get_origin(annotation) is list:
        (inner,) = get_args(annotation)
        return [_respelled(item, inner) for item in value]
    if isinstance(value, str):
        spellings = {str(option).lower(): option for option in _options(annotation)}
        return spellings.get(value.lower(), value)
    for inner in get_args(annotation):
        if isinstance(value, dict) and _is_model(inner):
            return _respelled(value, inner)
    return value


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _options(annotation: Any) -> list[str]:
    """The texts that an annotation allows, if it lists them: a Literal, an Enum, or a union."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation if isinstance(member.value, str)]
    options = []
    for argument in get_args(annotation):
        options += [argument] if isinstance(argument, str) else _options(argument)
    return options
