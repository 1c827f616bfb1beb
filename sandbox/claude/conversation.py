"""The prompt of a request – tools, system, messages – as Claude checks it, block by block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.claude.errors import ApiError
from sandbox.claude.models import Model

MAX_MESSAGES = 100_000
MAX_CACHE_BREAKPOINTS = 4
TTLS = ("5m", "1h")

_BLOCK_TYPES = """
text image document search_result thinking redacted_thinking tool_use tool_result server_tool_use
web_search_tool_result web_fetch_tool_result code_execution_tool_result
bash_code_execution_tool_result text_editor_code_execution_tool_result tool_search_tool_result
container_upload
"""
BLOCK_TYPES = frozenset(_BLOCK_TYPES.split())
UNCACHEABLE = frozenset(("thinking", "redacted_thinking"))
_TEXT_FIELDS = frozenset(("type", "text", "cache_control", "citations"))
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_system(system: Any) -> None:
    """Raise a 400 unless `system` is a text or a list of text blocks."""
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise ApiError(400, "system: Input should be a valid string or list of text blocks")
    for index, block in enumerate(system):
        _check_block(f"system.{index}", block, only_text=True)


def check_messages(messages: Any) -> None:
    """Raise a 400 for messages that Claude does not take up."""
    if not isinstance(messages, list):
        raise ApiError(400, "messages: Input should be a valid list")
    if not messages:
        raise ApiError(400, "messages: at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise ApiError(400, f"messages: List should have at most {MAX_MESSAGES} items")
    for index, message in enumerate(messages):
        _check_message(f"messages.{index}", message)
    if messages[0]["role"] != "user":
        raise ApiError(400, 'messages: first message must use the "user" role')
    if messages[-1]["role"] == "assistant":
        raise ApiError(
            400,
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message.",
        )


def check_tools(tools: Any, choice: Any, model: Model) -> None:
    """Raise a 400 for tools, or a choice among them, that Claude does not accept."""
    if not isinstance(tools, list | None):
        raise ApiError(400, "tools: Input should be a valid list of tools")
    names = [_tool_name(index, tool) for index, tool in enumerate(tools or ())]
    if len(names) > len(set(names)):
        raise ApiError(400, "tools: Tool names must be unique.")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise ApiError(400, "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if not names:
        raise ApiError(400, "tool_choice may only be specified while providing tools")
    if kind in ("any", "tool") and not model.forces_tools:
        raise ApiError(
            400, f'tool_choice: "{kind}" is not supported for this model. Use "auto" or "none".'
        )
    if kind == "tool" and choice.get("name") not in names:
        raise ApiError(400, f"Tool '{choice.get('name')}' not found in provided tools")


def has_citations(payload: Mapping[str, Any]) -> bool:
    """Whether a document asks for citations, which structured output cannot give."""
    return any(
        isinstance(block.get("citations"), dict) and block["citations"].get("enabled")
        for _, block in _blocks(payload)
    )


def check_breakpoints(payload: Mapping[str, Any]) -> None:
    """Raise a 400 for cache breakpoints that are malformed, too many or in the wrong order.

    An hour's entry cannot come after one of five minutes, in the order tools, system, messages.
    """
    marks = [("", payload["cache_control"])] if payload.get("cache_control") else []
    for where, block in _blocks(payload):
        if block.get("cache_control"):
            if block.get("type") in UNCACHEABLE:
                raise ApiError(400, f"{where}.cache_control: Extra inputs are not permitted")
            marks.append((f"{where}.", block["cache_control"]))
    if len(marks) > MAX_CACHE_BREAKPOINTS:
        raise ApiError(
            400,
            f"A maximum of {MAX_CACHE_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {len(marks)}.",
        )
    has_short = False
    # The mark of the whole request lies on its last block.
    for where, control in [*marks[1:], marks[0]] if marks and not marks[0][0] else marks:
        ttl = _checked_ttl(f"{where}cache_control", control)
        if ttl == "1h" and has_short:
            raise ApiError(
                400,
                f"{where}cache_control.ttl: a ttl='1h' cache_control block must not come after a "
                "ttl='5m' cache_control block. Note that blocks are processed in the following "
                "order: `tools`, `system`, `messages`.",
            )
        has_short = has_short or ttl == "5m"


def _checked_ttl(where: str, control: Any) -> str:
    if not isinstance(control, dict):
        raise ApiError(400, f"{where}: Input should be a valid dictionary")
    if control.get("type") != "ephemeral":
        raise ApiError(400, f"{where}.type: Input should be 'ephemeral'")
    for name in control.keys() - {"type", "ttl"}:
        raise ApiError(400, f"{where}.{name}: Extra inputs are not permitted")
    ttl = control.get("ttl", TTLS[0])
    if ttl not in TTLS:
        raise ApiError(400, f"{where}.ttl: Input should be '5m' or '1h'")
    return str(ttl)


def _blocks(payload: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every block of the prompt with its path, in the order in which the cache sees them."""
    for index, tool in enumerate(payload.get("tools") or ()):
        yield f"tools.{index}", tool
    system = payload.get("system")
    if isinstance(system, list):
        for index, block in enumerate(system):
            yield f"system.{index}", block
    for number, message in enumerate(payload["messages"]):
        if isinstance(message["content"], list):
            for index, block in enumerate(message["content"]):
                yield f"messages.{number}.content.{index}", block


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where}: Input should be an object")
    for name in ("role", "content"):
        if name not in message:
            raise ApiError(400, f"{where}.{name}: Field required")
    if len(message) > 2:
        name = next(name for name in message if name not in ("role", "content"))
        raise ApiError(400, f"{where}.{name}: Extra inputs are not permitted")
    role, content = message["role"], message["content"]
    if role not in ("user", "assistant", "system"):
        raise ApiError(400, f"{where}.role: Input should be 'user' or 'assistant'")
    if not content:
        raise ApiError(400, f"{where}: all messages must have non-empty content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ApiError(400, f"{where}.content: Input should be a valid string or list")
    for index, block in enumerate(content):
        _check_block(f"{where}.content.{index}", block, only_text=role == "system")


def _check_block(where: str, block: Any, *, only_text: bool) -> None:
    if not isinstance(block, dict):
        raise ApiError(400, f"{where}: Input should be an object")
    if "type" not in block:
        raise ApiError(400, f"{where}.type: Field required")
    kind = block["type"]
    if only_text and kind != "text":
        raise ApiError(400, f"{where}.type: Input should be 'text'")
    if kind not in BLOCK_TYPES:
        tags = ", ".join(f"'{type_}'" for type_ in sorted(BLOCK_TYPES))
        raise ApiError(
            400,
            f"{where}: Input tag '{kind}' found using 'type' does not match any of the "
            f"expected tags: {tags}",
        )
    if kind == "text":
        # Where several types are possible, the path of a field goes through the type.
        _check_text_block(where if only_text else f"{where}.text", block)


def _check_text_block(where: str, block: Mapping[str, Any]) -> None:
    if "text" not in block:
        raise ApiError(400, f"{where}.text: Field required")
    for name in block.keys() - _TEXT_FIELDS:
        raise ApiError(400, f"{where}.{name}: Extra inputs are not permitted")
    if not isinstance(block["text"], str):
        raise ApiError(400, f"{where}.text: Input should be a valid string")
    if not block["text"]:
        if block.get("cache_control"):
            raise ApiError(400, f"{where}: cache_control cannot be set for empty text blocks")
        raise ApiError(400, f"{where.partition('.')[0]}: text content blocks must be non-empty")


def _tool_name(index: int, tool: Any) -> str:
    if not isinstance(tool, dict):
        raise ApiError(400, "tools: Input should be a valid list of tools")
    name = tool.get("name", tool.get("type"))
    if tool.get("type", "custom") == "custom":
        for field in ("name", "input_schema"):
            if field not in tool:
                raise ApiError(400, f"tools.{index}.custom.{field}: Field required")
        if not (isinstance(name, str) and _TOOL_NAME.fullmatch(name)):
            raise ApiError(
                400,
                f"tools.{index}.custom.name: String should match pattern "
                "'^[a-zA-Z0-9_-]{1,128}$'",
            )
    return str(name)
