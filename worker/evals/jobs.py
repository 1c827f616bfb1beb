"""The jobs of a run: sent within its cost cap, waited for, cancelled if it ends early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping

from worker.claude.pricing import price_book
from worker.claude.reply import Tokens
from worker.engine.choose import Choice
from worker.engine.prepare import Preparer
from worker.errors import InvalidInput
from worker.evals.report import Facts
from worker.evals.run import CaseFailed
from worker.evals.spending import Spending
from worker.settings import get_settings
from worker.storage import control, fleet, read
from worker.storage.engine import transaction
from worker.storage.models import TERMINAL_STATES

#: On whose behalf test jobs run, so that their cost can be told from everybody else's.
USER = "prompt-test"

#: As for reviews: before the ordinary, as somebody waits and the jobs are few.
_PRIORITY = 50
#: Seconds between looks at a job, and at the workers.
_PAUSE, _ROUND = 0.1, 5.0
#: Bytes of a request that make a token at least: an estimate on the safe side.
_BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended: its row and its calls, the last one last."""

    row: RowMapping
    calls: Sequence[RowMapping]

    @property
    def output(self) -> dict[str, Any] | None:
        """The validated output; None unless the job succeeded."""
        return self.row["output"]  # type: ignore[no-any-return]

    @property
    def warnings(self) -> list[dict[str, str]]:
        """What soft checks found."""
        return self.row["warnings"] or []

    @property
    def reason(self) -> str:
        """Why there is no output."""
        error = self.row["error"] or {}
        if self.row["state"] == "cancelled":
            return "the job was cancelled"
        return f"the job failed: {error.get('type')}: {error.get('message')}"

    def note(self, facts: Facts, *, judge: bool = False) -> None:
        """Add what it took to the facts of its case; a judge's job adds its cost only."""
        costs = [call["cost_usd"] for call in self.calls if call["cost_usd"] is not None]
        facts.cost_usd = sum(costs, facts.cost_usd or Decimal(0))
        if judge:
            return
        facts.job = str(self.row["id"])
        facts.calls = len(self.calls)
        facts.input_tokens = sum(
            call["input_tokens"]
            + call["cache_read_tokens"]
            + call["cache_write_5m_tokens"]
            + call["cache_write_1h_tokens"]
            for call in self.calls
        )
        facts.output_tokens = sum(call["output_tokens"] for call in self.calls)


class Jobs:
    """Sends jobs and waits for them, as many at once as its caller asks for."""

    def __init__(
        self, preparer: Preparer, spending: Spending, on_change: Callable[[], None]
    ) -> None:
        self._preparer = preparer
        self._spending = spending
        self._on_change = on_change
        self._running: set[UUID] = set()
        self._looked = time.monotonic()
        self.capped = False
        #: Whether nobody is there to run what was sent.
        self.stranded = False

    async def run(self, choice: Choice, values: dict[str, Any], pin: str | None) -> Ended:
        """Run a job for an input, as soon as the cap allows.

        Args:
            choice: the task; model and prompt version say what it may cost.
            values: the input.
            pin: the prompt version that it is pinned to; None: the one that serves.

        Raises:
            CaseFailed: the cap is reached; the job was not sent.
        """
        spending, worst = self._spending, self._worst(choice, values)
        while spending.must_wait(worst):
            await asyncio.sleep(_PAUSE)
        if spending.used_up:
            self.capped = True
            raise CaseFailed(
                f"not sent: ${spending.spent:.4f} were spent of ${spending.cap} (--max-cost)"
            )
        # A test that is shown what was answered before has tested nothing.
        job = choice.task.enqueue(
            **values, prompt_version=pin, user_id=USER, priority=_PRIORITY, cache=False
        )
        spending.reserve(worst)
        self._running.add(job.id)
        self._on_change()
        try:
            ended = await self._ended(job.id)
        except BaseException:
            spending.give_up(worst)
            raise
        self._running.discard(job.id)
        spending.settle(worst, ended.calls)
        self._on_change()
        return ended

    def cancel(self) -> int:
        """Cancel what still runs; returns how many jobs that were."""
        if not self._running:
            return 0
        with transaction() as connection:
            states = control.cancel_jobs(connection, list(self._running))
        self._running.clear()
        return len(states)

    async def _ended(self, job_id: UUID) -> Ended:
        while True:
            with transaction() as connection:
                if read.outcome(connection, job_id)["state"] in TERMINAL_STATES:
                    return Ended(*read.job_details(connection, job_id))
                self._look_at_workers(connection)
            await asyncio.sleep(_PAUSE)

    def _look_at_workers(self, connection: Connection) -> None:
        if time.monotonic() < self._looked + _ROUND:
            return
        self._looked = time.monotonic()
        self.stranded = not alive(connection)
        self._on_change()

    def _worst(self, choice: Choice, values: dict[str, Any]) -> Decimal:
        """The cost of the longest reply, in US dollars."""
        request = self._preparer.prepare_input(choice, values).request
        size = len(request.system.encode()) + len(request.user.encode())
        tokens = Tokens(input=size // _BYTES_PER_TOKEN, output=request.max_tokens)
        cost = price_book().cost_usd(choice.model, tokens)
        if cost is None:
            raise InvalidInput(f"{choice.model} has no known price")
        return cost


def alive(connection: Connection) -> bool:
    """Whether any worker is there to run jobs."""
    silent = get_settings().lease_seconds
    return fleet.progress(connection, silent=silent).live_workers > 0
