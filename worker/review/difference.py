"""Which words of two texts differ, as far as marking them helps a reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

#: A word with the space after it; scripts that set no spaces are taken character by character.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]\s*"
    r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+\s*|[^\w\s]\s*|\s+"
)
_SENTENCES = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")

#: Matching costs the product of the lengths at worst; a page must come at once.
_MOST_TOKENS = 2000
#: Two texts that share less of their words are different texts: marks all over would say nothing.
_LEAST_ALIKE = 0.4
#: So many words alike between two changes are chance, and are marked with them.
_ISLAND = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text, and whether the other text lacks it."""

    text: str
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """Two texts in spans; `reworded`: they differ all over, and nothing is marked."""

    left: tuple[Span, ...]
    right: tuple[Span, ...]
    reworded: bool = False


def compare_texts(left: str, right: str) -> Difference:
    """Mark the words that only one of the texts has; very long texts by sentence."""
    if left == right:
        return Difference((Span(left),), (Span(right),))
    for pattern in (_WORDS, _SENTENCES):
        a, b = pattern.findall(left), pattern.findall(right)
        if max(len(a), len(b)) <= _MOST_TOKENS:
            return _compare(a, b)
    return Difference((Span(left),), (Span(right),), reworded=True)


def _compare(left: Sequence[str], right: Sequence[str]) -> Difference:
    a, b = [token.strip() for token in left], [token.strip() for token in right]
    same_left, same_right = [False] * len(a), [False] * len(b)
    matches = SequenceMatcher(None, a, b).get_matching_blocks()
    for start_left, start_right, size in matches:
        at_edge = 0 in (start_left, start_right) or (
            start_left + size == len(a) or start_right + size == len(b)
        )
        if size > _ISLAND or at_edge:
            same_left[start_left : start_left + size] = [True] * size
            same_right[start_right : start_right + size] = [True] * size
    alike = 2 * sum(block.size for block in matches) / (len(a) + len(b))
    if alike < _LEAST_ALIKE and min(len(a), len(b)) > 3:
        return Difference((Span("".join(left)),), (Span("".join(right)),), reworded=True)
    return Difference(_spans(left, same_left), _spans(right, same_right))


def _spans(tokens: Sequence[str], same: Sequence[bool]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for is_same, run in groupby(zip(tokens, same, strict=True), key=lambda each: each[1]):
        piece = "".join(token for token, _ in run)
        if is_same:
            spans.append(Span(piece))
            continue
        marked = piece.rstrip()
        spans.append(Span(marked, differs=True))
        if space := piece[len(marked) :]:
            spans.append(Span(space))
    return tuple(spans)
