"""Plausible text about a text: titles, phrases and sentences made of its own words."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cached_property

READ_CHARACTERS = 3000
"""As much of a document as is read: enough for variety, and a reply costs the same for any size."""

_SENTENCE = re.compile(r"[^\s.!?。<>{}|#*][^.!?。\n<>{}|]{24,200}[.!?。]")
_WORD = re.compile(r"[^\W\d_]{4,}")
_TAGGED = re.compile(r"<([a-z_]+)[^<>]*>(.+?)</\1>", re.DOTALL)
_OPTION = re.compile(r"^- (.+?)\s*$", re.MULTILINE)
_COMMON_WORDS = """
about above after again also although among analyze because been before being below between both
could does doing down during each even every extract field fields following from further given gives
have having here however into json just keep like made make many more most much must never none only
other over please provide return same should since some still such take than that their them then
there these they this those through under until upon user very want well were what when where which
while will with within without would write your
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_FALLBACK_WORDS = ("request", "answer", "detail", "context", "result", "process", "change", "plan")
_FALLBACK_SENTENCES = (
    "The text gives little to go on, so this answer stays general.",
    "No further detail was provided in the request.",
)


_FIRST_NAMES = ("Alex", "Dana", "Ines", "Jonas", "Mira", "Noor", "Sam", "Yuki")
_LAST_NAMES = ("Almeida", "Berg", "Chen", "Dubois", "Haddad", "Okafor", "Silva", "Weber")


class Prose:
    """A writer with one topic. Equal topic and random state give equal text."""

    def __init__(self, topic: str, rng: random.Random) -> None:
        self._whole = topic
        self._topic = _document(topic)
        self._rng = rng

    @cached_property
    def _sentences(self) -> list[str]:
        return _SENTENCE.findall(self._topic) or list(_FALLBACK_SENTENCES)

    @cached_property
    def _words(self) -> list[str]:
        counts = Counter(_WORD.findall(self._topic.lower()))
        found = [word for word, _ in counts.most_common(60) if word not in _COMMON]
        return found if len(found) >= 6 else [*found, *_FALLBACK_WORDS]

    def listed(self, name: str) -> str | None:
        """One of the options that the message lists for a field `name`, if it lists any.

        Options are the lines `- …` of a part tagged with the plural: `<categories>` for `category`.
        """
        for tag, content in _TAGGED.findall(self._whole) if "</" in self._whole else ():
            if tag in (f"{name}s", f"{name[:-1]}ies"):
                options = _OPTION.findall(content)
                return self._rng.choice(options) if options else None
        return None

    def keyword(self) -> str:
        """One or two words, lower case."""
        return " ".join(self._rng.sample(self._words, self._rng.choice((1, 1, 2))))

    def title(self) -> str:
        """Three to five words that start with a capital."""
        words = [w for w in _WORD.findall(self.sentence()) if w.lower() not in _COMMON]
        words = words[: self._rng.randint(3, 5)] or self._words[:3]
        return " ".join(word.capitalize() for word in words)

    def person(self) -> str:
        """A first and a last name."""
        return f"{self._rng.choice(_FIRST_NAMES)} {self._rng.choice(_LAST_NAMES)}"

    def phrase(self) -> str:
        """The first words of a sentence of the text."""
        words = self.sentence().rstrip(".!?。").split()
        return " ".join(words[: self._rng.randint(5, 9)]).rstrip(",;:–-")

    def sentence(self) -> str:
        """A sentence of the text, verbatim."""
        return self._rng.choice(self._sentences)

    def paragraph(self, sentences: int | None = None) -> str:
        """Some sentences of the text, in its order."""
        count = min(sentences or self._rng.randint(2, 3), len(self._sentences))
        chosen = sorted(self._rng.sample(range(len(self._sentences)), count))
        return " ".join(self._sentences[index] for index in chosen)


def _document(text: str) -> str:
    """What a prompt is about: its longest `<tagged>` part if it has a long one, or all of it."""
    text = text[: 4 * READ_CHARACTERS]
    parts = [match[1] for match in _TAGGED.findall(text)] if "</" in text else []
    longest = max(parts, key=len, default="")
    return (longest if len(longest) > 80 else text)[:READ_CHARACTERS]
