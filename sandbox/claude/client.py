"""Starting the simulated Claude as a child process, and steering it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from sandbox.claude.config import Config
from sandbox.claude.faults import Fault
from sandbox.claude.ledger import LedgerEntry

CONTROL_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0


class SimulatedClaude:
    """A simulated Claude in a child process, which dies with this one.

        with SimulatedClaude(latency=0.2) as claude:
            client = Anthropic(api_key="any", base_url=claude.url, max_retries=0)
            claude.faults(Fault(status=529, times=2))

    The child is also killed when the *thread* that started it ends: start it from the main thread.
    The ledger and the faults live in the child; `start()` after `stop()` or `kill()` serves at the
    same URL with the same settings, but begins a new ledger.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        seed: int = 0,
        latency: float = 0.0,
        tokens_per_second: float | None = None,
        chunk_tokens: int = 8,
        thinking_tokens: int = 0,
        api_key: str | None = None,
        **settings: Any,
    ) -> None:
        """Port 0 takes a free one. For the rest see `sandbox.claude.config.Config`.

        Raises `pydantic.ValidationError` for a setting that does not exist or is malformed.
        """
        self._port = port
        self._seed = seed
        self._config = Config(
            latency=latency,
            tokens_per_second=tokens_per_second,
            chunk_tokens=chunk_tokens,
            thinking_tokens=thinking_tokens,
            api_key=api_key,
            **settings,
        )
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """What `ANTHROPIC_BASE_URL` should be. Known after the first start, and kept from then."""
        if not self._port:
            raise RuntimeError("the simulated Claude has not been started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the running child."""
        return self._running().pid

    def start(self) -> Self:
        """Start the child and wait until it listens.

        Raises `RuntimeError` if it does not come up; what it had to say is on stderr.
        """
        if self._process is not None:
            raise RuntimeError("the simulated Claude is running already")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.claude", *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent, which may still need Claude while it shuts down.
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101
        url = self._process.stdout.readline().strip()
        if not url:
            self.kill()
            raise RuntimeError("the simulated Claude did not start")
        self._port = urlsplit(url).port or 0
        return self

    def stop(self) -> None:
        """Stop the child in an orderly way; a second call does nothing."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Kill the child at once; a second call does nothing."""
        if self._process is None:
            return
        with self._process as process:  # closes the pipe and waits
            process.kill()
        self._process = None

    def faults(self, *faults: Fault | Mapping[str, Any]) -> None:
        """Script faults, after those that are still to come."""
        models = [Fault.model_validate(fault) for fault in faults]
        self._control("POST", "faults", [m.model_dump(exclude_unset=True) for m in models])

    def remaining_faults(self) -> list[dict[str, Any]]:
        """The faults that have not struck yet, with the `times` they have left."""
        remaining: list[dict[str, Any]] = self._control("GET", "faults")
        return remaining

    def clear_faults(self) -> None:
        """Nothing more goes wrong."""
        self._control("DELETE", "faults")

    def configure(self, **settings: Any) -> None:
        """Change settings of the running server: any field of `Config`, also after a restart.

        Raises `pydantic.ValidationError` for one that does not exist or is malformed.
        """
        self._config = Config.model_validate(self._config.model_dump() | settings)
        changed = self._config.model_dump(mode="json", include=set(settings))
        self._control("POST", "config", changed)

    def age_cache(self, seconds: float) -> None:
        """Let the entries of the prompt cache age, as if so much time had gone by."""
        self._control("POST", "cache", {"age": seconds})

    def batches(self) -> list[dict[str, Any]]:
        """Every batch, the oldest first: as the API shows it, with `custom_ids` and `deleted`."""
        batches: list[dict[str, Any]] = self._control("GET", "batches")
        return batches

    def advance_batches(self, seconds: float) -> None:
        """Let the batches' clock jump ahead: a day for expiry, 29 for the end of results."""
        self._control("POST", "batches", {"advance": seconds})

    def ledger(self, since: int = 0) -> list[LedgerEntry]:
        """What the server received and billed, from entry `since` on, in order of arrival."""
        entries = self._control("GET", f"ledger?since={since}")
        return [LedgerEntry.from_json(entry) for entry in entries]

    def stats(self) -> dict[str, Any]:
        """`requests`, `in_flight`, `max_in_flight`, `in_flight_since`, `started_at`, `spent_usd`.

        `classes` has for each model class `admitted`, `rejected` (429), `overloaded` (529),
        `input_tokens` (cache reads excluded) and `output_tokens`.
        """
        stats: dict[str, Any] = self._control("GET", "stats")
        return stats

    def reset(self) -> None:
        """Forget all faults, batches, the ledger, the cache and what was used; settings stay."""
        for what in ("faults", "batches", "ledger", "cache", "account"):
            self._control("DELETE", what)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the simulated Claude is not running")
        return self._process

    def _arguments(self) -> list[str]:
        arguments = [f"--port={self._port}", f"--seed={self._seed}"]
        settings = self._config.model_dump(mode="json", exclude_none=True)
        for name, value in settings.items():
            text = json.dumps(value) if isinstance(value, dict) else value
            arguments.append(f"--{name.replace('_', '-')}={text}")
        return [*arguments, f"--die-with-parent={os.getpid()}"]

    def _control(self, method: str, path: str, body: object = None) -> Any:
        # http.client rather than the SDK's client: it asks no proxy variable for its way.
        self._running()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CONTROL_TIMEOUT)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/_control/{path}", payload)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(text)
        return json.loads(text)
