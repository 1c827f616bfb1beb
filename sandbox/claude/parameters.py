"""The parameters of a request beside its prompt, each checked for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.claude.betas import FAST_MODE
from sandbox.claude.errors import ApiError
from sandbox.claude.models import Model

MAX_USER_ID = 256
EFFORTS = ("low", "medium", "high", "xhigh", "max")
THINKING_TYPES = ("enabled", "adaptive", "between_tools", "disabled")
_MIN_BUDGET = 1024

Check = Callable[[Any], bool]


def check_values(payload: Mapping[str, Any]) -> None:
    """Raise a 400 that names the first parameter whose value has a wrong type."""
    for name, value in payload.items():
        if name in _CHECKS:
            is_valid, message = _CHECKS[name]
            if not is_valid(value):
                raise ApiError(400, f"{name}: {message}")


def check_metadata(metadata: Any) -> str | None:
    """The `user_id` of a request, if it has one."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise ApiError(400, "metadata: Input should be an object")
    for name in metadata.keys() - {"user_id"}:
        raise ApiError(400, f"metadata.{name}: Extra inputs are not permitted")
    user_id = metadata.get("user_id")
    if not isinstance(user_id, str | None):
        raise ApiError(400, "metadata.user_id: Input should be a valid string")
    if user_id is not None and len(user_id) > MAX_USER_ID:
        raise ApiError(
            400, f"metadata.user_id: String should have at most {MAX_USER_ID} characters"
        )
    return user_id


def check_speed(payload: Mapping[str, Any], betas: frozenset[str]) -> None:
    """Raise a 400 for a fast reply that was asked for without its beta."""
    if payload.get("speed") == "fast" and FAST_MODE not in betas:
        raise ApiError(400, f"speed: 'fast' requires the `{FAST_MODE}` beta header")


def output_schema(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema that the reply has to keep to, not yet checked; None if there is none."""
    config = payload.get("output_config")
    if config is None:
        return None
    if not isinstance(config, dict):
        raise ApiError(400, "output_config: Input should be an object")
    for name in config.keys() - {"effort", "format"}:
        raise ApiError(400, f"output_config.{name}: Extra inputs are not permitted")
    if config.get("effort") not in (None, *EFFORTS):
        raise ApiError(400, f"output_config.effort: Input should be one of {', '.join(EFFORTS)}")
    format_ = config.get("format")
    if format_ is None:
        return None
    if not isinstance(format_, dict) or format_.get("type") != "json_schema":
        raise ApiError(400, "output_config.format.type: Input should be 'json_schema'")
    for name in format_.keys() - {"type", "schema"}:
        raise ApiError(400, f"output_config.format.{name}: Extra inputs are not permitted")
    if "schema" not in format_:
        raise ApiError(400, "output_config.format.schema: Field required")
    schema: dict[str, Any] = format_["schema"]
    return schema


def thinking_type(payload: Mapping[str, Any], model: Model) -> str | None:
    """How the request wants the model to think; None if it does not say."""
    thinking = payload.get("thinking")
    if thinking is None:
        return None
    type_ = thinking.get("type") if isinstance(thinking, dict) else None
    if type_ not in THINKING_TYPES:
        raise ApiError(400, f"thinking.type: Input should be one of {', '.join(THINKING_TYPES)}")
    if type_ not in model.thinking:
        instead = "adaptive" if "adaptive" in model.thinking else "enabled"
        raise ApiError(
            400,
            f'"thinking.type.{type_}" is not supported for this model. Use '
            f'"thinking.type.{instead}" and "output_config.effort" to control thinking behavior.',
        )
    if thinking.get("display") not in (None, "summarized", "omitted"):
        raise ApiError(400, f"thinking.{type_}.display: Input should be 'summarized' or 'omitted'")
    if type_ == "enabled":
        _check_budget(thinking.get("budget_tokens", 0), payload.get("max_tokens"))
    return str(type_)


def _check_budget(budget: int, max_tokens: int | None) -> None:
    if budget < _MIN_BUDGET:
        raise ApiError(
            400,
            "thinking.enabled.budget_tokens: Input should be greater than or equal to "
            f"{_MIN_BUDGET}",
        )
    if max_tokens is not None and budget >= max_tokens:
        raise ApiError(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_strings(value: Any) -> bool:
    return isinstance(value, list | None) and all(isinstance(item, str) for item in value or ())


def _has_content(value: Any) -> bool:
    return all(item.strip() for item in value or ())


_CHECKS: dict[str, tuple[Check, str]] = {
    "model": (lambda value: isinstance(value, str), "Input should be a valid string"),
    "max_tokens": (_is_count, "Input should be a valid integer, greater than or equal to 0"),
    "stream": (lambda value: isinstance(value, bool | None), "Input should be a valid boolean"),
    "stop_sequences": (
        lambda value: _is_strings(value) and _has_content(value),
        "each stop sequence must be a string that contains non-whitespace",
    ),
    "speed": (
        lambda value: value in (None, "standard", "fast"),
        "Input should be 'standard' or 'fast'",
    ),
    "service_tier": (
        lambda value: value in (None, "auto", "standard_only"),
        "Input should be 'auto' or 'standard_only'",
    ),
    "inference_geo": (
        lambda value: isinstance(value, str | None),
        "Input should be a valid string",
    ),
}
