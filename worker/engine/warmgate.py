"""The warm gate: of the jobs that share a cold prefix, one goes first and the others wait for it.

Claude can read a prefix from its prompt cache only once the reply to the call that wrote it has
begun. Calls that are made side by side against a cold cache therefore all pay for the write. So the
first job to come leads: its reply is streamed, because only a stream shows when it begins. The
others wait for that moment, for a bounded time, before they take a place in the rate limits.

A job whose prefix is known to be warm passes with a look into a dictionary. Every reply says
whether its prefix was read or written, and so for how much longer it is warm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from uuid import uuid4

from worker.claude.failures import aborted
from worker.claude.inflight import CallControl
from worker.claude.reply import Reply, Tokens
from worker.claude.request import CacheLifetime
from worker.engine.prefix import Prefix
from worker.engine.warmth import Known, Warmth

#: How long Claude keeps a prefix that nobody reads (seconds).
LIFETIMES: Mapping[CacheLifetime, float] = {"5m": 300.0, "1h": 3600.0}
#: The last part of it is not relied on: a call that passes here may yet wait for the rate limits.
_MARGIN = 0.05
#: That Claude does not cache a prefix is believed for so long (seconds): the text does not change,
#: but the models' minimums do.
_UNCACHED_SECONDS = 24 * 3600.0
#: Who leads is taken for dead after so long without a sign of life, and gives one so often.
_LEAD_SECONDS, _BEAT_SECONDS = 3.0, 1.0
#: How often one follower of each process looks whether another process's leader has begun.
_LOOK_AGAIN = 0.05
#: A prefix in use is renewed with every call; less than so much more (seconds) is not noted.
_WORTH_NOTING = 0.05
#: More prefixes than a process meets, unless producers name models of their own invention.
_MOST_PREFIXES = 1000


class _State:
    """What this process knows of a prefix; changed under the gate's lock only."""

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix
        self.key = prefix.key
        #: Until then nobody waits: the prefix is warm, or Claude does not cache it.
        self.open_until = 0.0
        self.uncached = False
        #: When the fleet is to be told anew for how long that holds.
        self.tell_at = 0.0
        #: Somebody of this process leads, or asks who does.
        self.taken = False
        self.waiting: set[threading.Event] = set()

    def is_open(self, now: float) -> bool:
        return now < self.open_until

    def ring(self) -> None:
        for bell in self.waiting:
            bell.set()


class Passage:
    """A call that may be made. If it `leads`, its reply must be streamed, and tell of `begun`.

    A context manager: if a leader leaves it before its reply has begun, the next one leads.
    """

    leads = False

    def begun(self, tokens: Tokens) -> None:
        """The reply has begun; `tokens` is what it says of its input. Never raises."""

    def answered(self, reply: Reply) -> None:
        """The whole reply is there."""

    def __enter__(self) -> Passage:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class WarmGate:
    """Lets calls pass once their prefix is warm; safe to use from any number of threads.

    Args:
        warmth: what the fleet knows. While Redis is away, each process is a fleet of its own.
        patience: how long a follower waits at most, in seconds; 0: nobody waits.
        lifetimes: how long Claude keeps a prefix, in seconds.
    """

    def __init__(
        self,
        warmth: Warmth,
        patience: float,
        lifetimes: Mapping[CacheLifetime, float] = LIFETIMES,
    ) -> None:
        self._warmth = warmth
        self._patience = patience
        self._lifetimes = lifetimes
        self._states: dict[Prefix, _State] = {}
        self._lock = threading.Lock()

    def enter(self, prefix: Prefix | None, control: CallControl) -> Passage:
        """Wait until the call may be made: its prefix is warm, or it leads, or patience is over.

        Raises:
            CallFailed: the call was ended while it waited.
        """
        if prefix is None or not self._patience:
            return Passage()
        state = self._states.get(prefix) or self._new_state(prefix)
        if state.is_open(time.monotonic()):
            return _Follower(self, state)
        who = uuid4().hex
        leads = self._wait(state, who, control)
        return _Leader(self, state, self._warmth, who) if leads else _Follower(self, state)

    def learn(self, state: _State, tokens: Tokens, age: float) -> None:
        """Take in what the reply to a call that was made `age` seconds ago says of its prefix."""
        now = time.monotonic()
        if tokens.cache_read or tokens.cache_write_5m or tokens.cache_write_1h:
            # The call has read it, and so renewed it, or written it when it began.
            left = self._lifetimes[state.prefix.lifetime] * (1 - _MARGIN) - age
            if state.uncached or now + left > state.open_until + _WORTH_NOTING:
                self._open(state, "warm", left)
        elif state.uncached or not state.is_open(now):
            self._open(state, "uncached", _UNCACHED_SECONDS)
        if state.is_open(now) and now >= state.tell_at:
            self._tell(state, now)

    def hand_on(self, state: _State) -> None:
        """Nobody of this process leads any more, nor asks who does."""
        with self._lock:
            state.taken = False
            state.ring()

    def _open(self, state: _State, known: Known, seconds: float) -> None:
        with self._lock:
            until, uncached = time.monotonic() + seconds, known == "uncached"
            if state.uncached != uncached:
                state.uncached, state.open_until, state.tell_at = uncached, until, 0.0
            state.open_until = max(state.open_until, until)
            state.ring()

    def _tell(self, state: _State, now: float) -> None:
        with self._lock:
            if now < state.tell_at:
                return
            known: Known = "uncached" if state.uncached else "warm"
            left = state.open_until - now
            # Not with every call: a prefix in use is renewed long before Redis forgets it.
            state.tell_at = now + left / 4
        self._warmth.tell(state.key, known, left)

    def _wait(self, state: _State, who: str, control: CallControl) -> bool:
        """Wait until nobody has to; True if this call leads."""
        bell, give_up = threading.Event(), time.monotonic() + self._patience
        try:
            with control.ringing(bell):
                while (now := time.monotonic()) < give_up:
                    with self._lock:
                        bell.clear()
                        if state.is_open(now):
                            return False
                        free, state.taken = not state.taken, True
                        state.waiting.add(bell)
                    if free and self._ask(state, who, control, bell, give_up):
                        return True
                    if control.reason is not None:
                        raise aborted(control.reason, 0)
                    if not free:
                        bell.wait(give_up - now)
                return False
        finally:
            with self._lock:
                state.waiting.discard(bell)

    def _ask(
        self, state: _State, who: str, control: CallControl, bell: threading.Event, give_up: float
    ) -> bool:
        """Ask the fleet until this call leads, or nobody has to wait; one thread of a process."""
        while control.reason is None and time.monotonic() < give_up:
            standing = self._warmth.enter(state.key, who, _LEAD_SECONDS)
            if standing is None or standing.state == "yours":
                return True
            if standing.state != "theirs":
                self._open(state, standing.state, standing.seconds)
                break
            bell.wait(_LOOK_AGAIN)
            bell.clear()
        self.hand_on(state)
        return False

    def _new_state(self, prefix: Prefix) -> _State:
        with self._lock:
            if len(self._states) >= _MOST_PREFIXES:
                self._states.clear()  # who uses one of them goes on with it; the rest ask Redis
            return self._states.setdefault(prefix, _State(prefix))


class _Follower(Passage):
    """The passage of a call that need not, or would not, wait any longer."""

    def __init__(self, gate: WarmGate, state: _State) -> None:
        self._gate = gate
        self._state = state

    def answered(self, reply: Reply) -> None:
        self._gate.learn(self._state, reply.tokens, age=reply.latency_ms / 1000)


class _Leader(_Follower):
    """The passage of a call that goes first: it gives signs of life until its reply has begun."""

    leads = True

    def __init__(self, gate: WarmGate, state: _State, warmth: Warmth, who: str) -> None:
        super().__init__(gate, state)
        self._warmth = warmth
        self._who = who
        self._over = threading.Event()
        # No thread left: without signs of life others may lead as well, which costs a write.
        with suppress(RuntimeError):
            threading.Thread(target=self._beat, name="warm-gate", daemon=True).start()

    def begun(self, tokens: Tokens) -> None:
        if not self._over.is_set():
            self._over.set()
            self._gate.learn(self._state, tokens, age=0.0)
            self._gate.hand_on(self._state)

    def __exit__(self, *_: object) -> None:
        if not self._over.is_set():
            self._over.set()
            self._warmth.leave(self._state.key, self._who)
            self._gate.hand_on(self._state)

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            self._warmth.keep(self._state.key, self._who, _LEAD_SECONDS)
