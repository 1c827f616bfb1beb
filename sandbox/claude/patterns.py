"""A text that matches a regular expression, for the simple ones that schemas have.

Known: literals, escapes, `.`, `\\d \\w \\s`, classes with ranges, groups, `|`, all quantifiers.
Unknown: lookaround, back references, flags, negated escapes in classes.
"""

from __future__ import annotations

import random
import re
import string

_ESCAPES = {"d": string.digits, "w": string.ascii_lowercase, "s": " "}
_PRINTABLE = string.ascii_letters + string.digits + "-_ "
_QUANTIFIER = re.compile(r"\{(\d+)(,?)(\d*)\}|[*+?]")
_SPARE_REPEATS = 3


def text_matching(pattern: str, rng: random.Random) -> str | None:
    """A text that `pattern` finds a match in; None if the pattern is beyond this module."""
    try:
        text, end = _alternatives(pattern, 0, rng)
        is_match = end == len(pattern) and re.search(pattern, text)
    except (IndexError, ValueError, re.error):
        return None
    return text if is_match else None


def _alternatives(pattern: str, at: int, rng: random.Random) -> tuple[str, int]:
    """A text for what starts at `at`, and where that ends: at `)` or the end of the pattern."""
    texts = [""]
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            texts.append("")
            at += 1
            continue
        start = at
        _, at = _atom(pattern, start, rng)
        repeats, at = _repeats(pattern, at, rng)
        # Each repetition is drawn anew, so that [A-Z]{3} is not one letter three times.
        texts[-1] += "".join(_atom(pattern, start, rng)[0] for _ in range(repeats))
    return rng.choice(texts), at


def _atom(pattern: str, at: int, rng: random.Random) -> tuple[str, int]:
    match pattern[at]:
        case "^" | "$":
            return "", at + 1
        case ".":
            return rng.choice(_PRINTABLE), at + 1
        case "\\":
            escaped = pattern[at + 1]
            return rng.choice(_ESCAPES.get(escaped, escaped)), at + 2
        case "[":
            return _class(pattern, at + 1, rng)
        case "(":
            inside = at + 3 if pattern.startswith("(?:", at) else at + 1
            text, end = _alternatives(pattern, inside, rng)
            return text, pattern.index(")", end) + 1
    return pattern[at], at + 1


def _class(pattern: str, at: int, rng: random.Random) -> tuple[str, int]:
    negated = pattern[at] == "^"
    at += negated
    members = ""
    while pattern[at] != "]" or not members:
        if pattern[at] == "\\":
            members += _ESCAPES.get(pattern[at + 1], pattern[at + 1])
            at += 2
        elif pattern[at + 1] == "-" and pattern[at + 2] != "]":
            members += "".join(map(chr, range(ord(pattern[at]), ord(pattern[at + 2]) + 1)))
            at += 3
        else:
            members += pattern[at]
            at += 1
    if negated:
        members = "".join(set(_PRINTABLE) - set(members))
    return rng.choice(sorted(members)), at + 1


def _repeats(pattern: str, at: int, rng: random.Random) -> tuple[int, int]:
    found = _QUANTIFIER.match(pattern, at)
    if found is None:
        return 1, at
    end = found.end() + pattern.startswith("?", found.end())
    low, comma, high = found.groups()
    if low is not None:
        most = int(high) if high else int(low) + (_SPARE_REPEATS if comma else 0)
        return rng.randint(int(low), most), end
    least, most = {"*": (0, _SPARE_REPEATS), "+": (1, 1 + _SPARE_REPEATS), "?": (0, 1)}[found[0]]
    return rng.randint(least, most), end
