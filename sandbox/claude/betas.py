"""Beta features: the values that the `anthropic-beta` header may have, and what they unlock."""

from __future__ import annotations

from functools import lru_cache

from sandbox.claude.errors import ApiError

_BETAS = """
admin-user-sign-out-2026-10-08 advisor-tool-2026-03-01 agent-memory-2026-07-22
analytics-usage-cost-2026-08-24 cache-diagnosis-2026-04-07
ce-claude-code-managed-settings-2026-10-06
ce-plugins-2026-09-01 ce-user-management-2026-07-13 code-execution-2025-05-22 compact-2026-01-12
compact-2026-09-04 computer-use-2024-10-22 computer-use-2025-01-24 computer-use-2025-11-24
context-1m-2025-08-07 context-management-2025-06-27 dev-full-thinking-2025-05-14
dreaming-2026-04-21 experimental-claude-tag-2026-10-21 extended-cache-ttl-2025-04-11
fallback-credit-2026-06-01 fallback-credit-2026-07-01 fast-mode-2026-02-01 files-api-2025-04-14
inline-tools-2026-09-15 interleaved-thinking-2025-05-14 managed-agents-2026-04-01
mcp-client-2025-04-04 mcp-client-2025-11-20 mcp-client-2026-09-15 mcp-tunnels-2026-06-22
message-batches-2024-09-24 message-threads-2026-08-12 mid-conversation-output-config-2026-07-01
mid-conversation-system-clear-at-2026-08-21 mid-conversation-tool-changes-2026-07-01
model-context-window-exceeded-2025-08-26 output-128k-2025-02-19 output-300k-2026-03-24
pdfs-2024-09-25 prompt-caching-2024-07-31 server-side-fallback-2026-06-01
server-side-fallback-2026-07-01 skills-2025-10-02 spend-limit-reads-2026-09-26
structured-outputs-2025-11-13 task-budgets-2026-03-13 telemetry-destinations-2026-08-11
thinking-binding-controls-2026-08-01 thinking-display-updates-2026-08-18
thinking-token-count-2026-05-13 token-counting-2024-11-01 token-efficient-tools-2025-02-19
user-profiles-2026-03-24 user-profiles-2026-08-18 user-profiles-2026-09-04
user-profiles-billing-2026-10-01 webhooks-2026-10-07
"""
BETAS = frozenset(_BETAS.split())
"""Those that the SDK 2.12 knows (`AnthropicBetaParam`)."""

BETA_PARAMETERS = {
    "billing_policy": ("user-profiles-billing-",),
    "compaction": ("compact-",),
    "context_management": ("context-management-", "compact-"),
    "fallback_credit_token": ("fallback-credit-",),
    "fallbacks": ("server-side-fallback-",),
    "mcp_servers": ("mcp-client-",),
    "output_format": ("structured-outputs-",),
    "thread": ("message-threads-",),
}
"""Parameters that only a beta has, and how the headers begin that unlock them."""

FAST_MODE = "fast-mode-2026-02-01"


@lru_cache(maxsize=64)
def parse_betas(header: str) -> frozenset[str]:
    """The features in an `anthropic-beta` header. Raises `ApiError` for one that is unknown."""
    betas = frozenset(part.strip() for part in header.split(",") if part.strip())
    unknown = ", ".join(f"`{beta}`" for beta in sorted(betas - BETAS))
    if unknown:
        raise ApiError(
            400,
            f"Unexpected value(s) {unknown} for the `anthropic-beta` header. Please consult our "
            "documentation at docs.anthropic.com or try again without the header.",
        )
    return betas


def unlocked_parameters(betas: frozenset[str]) -> frozenset[str]:
    """The parameters that these features add to a request."""
    return frozenset(
        name
        for name, prefixes in BETA_PARAMETERS.items()
        if any(beta.startswith(prefix) for beta in betas for prefix in prefixes)
    )
