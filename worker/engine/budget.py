"""What a job may use up: tokens and dollars, over all its calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from worker.engine.registry import AnyTask
from worker.storage.claim import Claim
from worker.storage.settle import CallRecord


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of all kinds and US dollars of a job so far, and the repairs of this attempt.

    A call of a model without a price counts as free; its tokens count all the same.
    """

    tokens: int = 0
    usd: Decimal = Decimal(0)
    repairs: int = 0

    @classmethod
    def before(cls, claim: Claim) -> Spent:
        """By earlier attempts."""
        return cls(claim.spent_tokens, claim.spent_usd)

    def plus(self, call: CallRecord, *, repairs: int = 0) -> Spent:
        """With one more call, and with `repairs` more."""
        tokens = (
            call.input_tokens
            + call.cache_read_tokens
            + call.cache_write_5m_tokens
            + call.cache_write_1h_tokens
            + call.output_tokens
        )
        usd = self.usd + (call.cost_usd or 0)
        return replace(self, tokens=self.tokens + tokens, usd=usd, repairs=self.repairs + repairs)

    def beyond(self, task: AnyTask) -> str | None:
        """Which budget of `task` is used up, in words; None when none is.

        It is asked before every call but a claim's first, so a job can overshoot by one call, whose
        size `max_tokens` bounds.
        """
        if task.token_budget is not None and self.tokens >= task.token_budget:
            return f"the job has used {self.tokens:,} of its {task.token_budget:,} tokens"
        if task.cost_budget is not None and self.usd >= task.cost_budget:
            return f"the job has cost ${self.usd:f} of its ${task.cost_budget:f}"
        return None
