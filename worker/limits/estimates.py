"""What a request will cost, judged by earlier requests of the same prompt version.

In memory, per process: an estimate is corrected as soon as its call has ended, so a process that
has just started only needs to be about right.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from worker.limits.types import Cost

#: Before anything is known: characters a token in plain English, rounded down, and a short answer.
_CHARACTERS_PER_TOKEN = 3.5
_OUTPUT_TOKENS = 400.0

#: The weight of the newest call once many have been seen: about the last twenty count.
_WEIGHT = 0.05
_REMEMBERED = 1000


@dataclass(slots=True)
class _History:
    calls: int = 0
    input: float = 0.0
    characters: float = 0.0
    output: float = 0.0


class Estimates:
    """Remembers, for each prompt version, tokens per character and the length of replies.

    The key is whatever identifies a prompt version (on one model); the least recently used of more
    than a thousand is forgotten. Safe to use from any number of threads.
    """

    def __init__(self) -> None:
        self._histories: OrderedDict[str, _History] = OrderedDict()
        self._lock = threading.Lock()

    def estimate(self, key: str, characters: int, max_tokens: int) -> Cost:
        """The expected cost of a request of so many characters, prompt and all."""
        with self._lock:
            history = self._histories.get(key)
            if history is None or history.characters <= 0:
                input_ = characters / _CHARACTERS_PER_TOKEN
                return Cost(input_, min(_OUTPUT_TOKENS, max_tokens))
            input_ = characters * history.input / history.characters
            return Cost(input_, min(history.output, max_tokens))

    def learn(self, key: str, characters: int, used: Cost) -> None:
        """Take note of what a request of so many characters did cost.

        Exponentially weighted means: of all tokens over all characters, so that short prompts do
        not distort the ratio; the first calls weigh equally.
        """
        with self._lock:
            history = self._histories.setdefault(key, _History())
            self._histories.move_to_end(key)
            if len(self._histories) > _REMEMBERED:
                self._histories.popitem(last=False)
            history.calls += 1
            weight = max(_WEIGHT, 1 / history.calls)
            history.input += weight * (used.input - history.input)
            history.characters += weight * (characters - history.characters)
            history.output += weight * (used.output - history.output)
