"""What a reader is told of a stream: pieces of text, and when to forget them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from worker.streams.entries import START, Entry, parse_position

#: Why a reader clears what it has, where the stream does not say.
_BEGINS_AGAIN = "Claude is asked again"
_INCOMPLETE = "part of the stream is gone"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What happened. `id` is where to go on after a lost connection.

    delta: `text` follows what came before. retrying: forget all text; `text` says why. done: look
    at Postgres now – the job has ended, unless it was requeued since.
    """

    id: str
    kind: Literal["delta", "retrying", "done"]
    text: str
    attempt: int


class View:
    """A reader's understanding of a stream: two calls' text is never mixed, nor text with a gap.

    It is given the whole stream, and tells what comes after `after`: the id of the last event that
    the reader has seen, if it has seen any. One that makes no sense is one that nothing is known
    of: the reader is told to clear, and gets everything. `replayed` is called with the pieces that
    the reader has already.
    """

    def __init__(
        self, after: str | None = None, replayed: Callable[[str], object] = lambda text: None
    ) -> None:
        self._seen = START if after is None else parse_position(after) or START
        self._replayed = replayed
        self._last = START
        #: Whether the reader may have text.
        self._has_text = after is not None
        #: Whether the beginning of the current call's text has come, and everything since.
        self._is_whole = False

    def take(self, entries: Iterable[Entry]) -> list[StreamEvent]:
        """The events that entries, in their order, amount to; neighbouring deltas become one."""
        events: list[StreamEvent] = []
        for entry in entries:
            event = self._event(entry)
            self._last = entry.position
            if event is None or entry.position <= self._seen:
                continue
            if event.kind == "delta" and events and events[-1].kind == "delta":
                event = replace(event, text=events.pop().text + event.text)
            events.append(event)
        return events

    def _event(self, entry: Entry) -> StreamEvent | None:
        match entry.kind:
            case "begin":
                self._is_whole = True
                return self._cleared(entry, entry.text or _BEGINS_AGAIN)
            case "delta" if self._is_whole and self._is_next(entry):
                if entry.position <= self._seen:
                    self._replayed(entry.text)
                self._has_text = True
                return StreamEvent(str(entry.position), "delta", entry.text, entry.attempt)
            case "delta":
                self._is_whole = False
                return self._cleared(entry, _INCOMPLETE)
            case "retrying":
                self._is_whole, self._has_text = False, True
                return self._cleared(entry, entry.text)
            case "done":
                self._is_whole = False
                return StreamEvent(str(entry.position), "done", "", entry.attempt)

    def _is_next(self, entry: Entry) -> bool:
        call, number = self._last
        return entry.position == (call, number + 1)

    def _cleared(self, entry: Entry, reason: str) -> StreamEvent | None:
        """What tells the reader to clear, if there can be something to clear."""
        if not self._has_text or entry.position <= self._seen:
            return None
        self._has_text = False
        return StreamEvent(str(entry.position), "retrying", reason, entry.attempt)
