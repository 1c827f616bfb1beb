"""Making one call: past the prompt cache and the rate limits, and paid for before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from worker.claude.call import Patience, call_claude
from worker.claude.clients import ClientStack
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply
from worker.claude.request import Request
from worker.engine.broadcast import Broadcast
from worker.engine.choose import Chooser
from worker.engine.gate import LONGEST_FOLLOW_UP_WAIT, LONGEST_WAIT, Gate
from worker.engine.prefix import prefix_of
from worker.engine.rendering import OutputSchema
from worker.engine.settling import OpenCall
from worker.engine.spending import Purse
from worker.engine.warmgate import Passage, WarmGate


class Caller:
    """Makes the calls of one worker process; safe to use from any number of threads.

    A stream that sends nothing for `stall_seconds` is given up.
    """

    def __init__(
        self,
        clients: ClientStack,
        chooser: Chooser,
        schemas: Mapping[str, OutputSchema],
        gate: Gate,
        warm_gate: WarmGate,
        stall_seconds: float,
    ) -> None:
        self._clients = clients
        self._chooser = chooser
        self._schemas = schemas
        self._gate = gate
        self._warm_gate = warm_gate
        self._stall_seconds = stall_seconds

    def call(
        self,
        opened: OpenCall,
        request: Request,
        control: CallControl,
        live: Broadcast,
        purse: Purse,
    ) -> Reply:
        """The reply to `request`, the open call of an attempt, paid for from `purse`.

        Raises:
            NotSent: it may not be sent now, or is not wanted any more.
            CallFailed: there is no reply.
        """

        def send() -> Reply:
            live.begin(opened.usage_id)
            # Of what the wait before it has left.
            timeout = max(0.0, min(opened.choice.task.call_timeout, opened.seconds_left()))
            patience = Patience(timeout, self._stall_seconds)
            return call_claude(
                self._clients,
                request,
                patience,
                control,
                stream=opened.claim.stream or passage.leads,
                on_text=live.delta,
                on_begin=passage.begun,
            )

        def wanted() -> bool:
            # A follow-up mends what is paid for already.
            return not first or self._chooser.still_holds(opened.claim, opened.choice)

        prompt, first = opened.choice.prompt, opened.is_first()
        longest = LONGEST_WAIT if first else LONGEST_FOLLOW_UP_WAIT
        name = f"{prompt.name}/{prompt.version}"
        pay = partial(purse.pay, opened.usage_id, request.model)
        with self._passage(opened, request, control) as passage:
            reply = self._gate.call(
                request, name, control, send, longest_wait=longest, wanted=wanted, pay=pay
            )
            passage.answered(reply)
            return reply

    def _passage(self, opened: OpenCall, request: Request, control: CallControl) -> Passage:
        """Waited for before a place in the rate limits is taken, which would be lost to others."""
        prompt, task = opened.choice.prompt, opened.choice.task
        prefix = prefix_of(prompt, self._schemas[task.name], request)
        return self._warm_gate.enter(prefix, control)
