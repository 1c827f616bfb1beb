"""JSON as a document: fields with headings, lists, paragraphs – two of them compared.

The corresponding parts of two outputs stand in one row. Fields correspond by name, items of a list
by what they are called, or else by their place between items that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from worker.review.difference import Span, compare_texts

Kind = Literal["text", "fields", "items", "pairs", "nothing"]

#: What an item of a list is called, if it has one of these fields.
_NAMES = ("title", "heading", "name", "label", "subject", "key", "id")
_PAIR = ({"key", "value"}, {"name", "value"})
#: Longer lists are matched by place alone.
_MOST_ITEMS = 400


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a document.

    A `text` has paragraphs; `fields` has a label for each child, and its first child as its title
    if `titled`; `pairs` is a list of keys and values. `lone`: the other document has no such part.
    """

    kind: Kind
    paragraphs: tuple[tuple[Span, ...], ...] = ()
    labels: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()
    titled: bool = False
    lone: bool = False
    reworded: bool = False

    @property
    def size(self) -> int:
        """Characters of a text."""
        return sum(len(span.text) for paragraph in self.paragraphs for span in paragraph)

    @property
    def short(self) -> bool:
        """Whether it fits beside its label."""
        return self.kind == "nothing" or (
            self.kind == "text" and len(self.paragraphs) == 1 and self.size <= 60
        )


@dataclass(frozen=True, slots=True)
class Row:
    """Corresponding parts; None where a document has nothing of the kind."""

    label: str
    left: Node | None
    right: Node | None
    number: int | None = None

    @property
    def short(self) -> bool:
        """Whether both parts fit beside their label."""
        return all(part is None or part.short for part in (self.left, self.right))


NOTHING = Node("nothing")


def compare(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """Two documents, row by row; what differs is marked."""
    rows = []
    for name in dict.fromkeys([*left, *right]):
        for number, (a, b) in enumerate(_rows_of(left.get(name), right.get(name)), start=1):
            rows.append(Row(humanize(name), a, b, number))
    return rows


def alone(document: Mapping[str, Any]) -> list[Row]:
    """One document, with nothing to compare it with."""
    rows = []
    for name, value in document.items():
        parts = value if _is_long_list(value) else [value]
        for number, part in enumerate(parts, start=1):
            rows.append(Row(humanize(name), node(part), None, number))
    return rows


def _rows_of(left: Any, right: Any) -> Iterator[tuple[Node | None, Node | None]]:
    if not (_is_long_list(left) and _is_long_list(right)):
        yield pair(left, right)
        return
    for a, b in _aligned(left, right):
        if a is _MISSING:
            yield None, node(b, lone=True)
        elif b is _MISSING:
            yield node(a, lone=True), None
        else:
            yield pair(a, b)


def _is_long_list(value: Any) -> bool:
    """A list whose items are worth a row of their own."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and set(item) not in _PAIR for item in value)
    )


def pair(left: Any, right: Any) -> tuple[Node, Node]:
    """The nodes of two values that correspond."""
    if isinstance(left, str) and isinstance(right, str):
        found = compare_texts(left, right)
        return _text(found.left, found.reworded), _text(found.right, found.reworded)
    if isinstance(left, dict) and isinstance(right, dict):
        return _pair_fields(left, right)
    if isinstance(left, list) and isinstance(right, list) and left and right:
        return _pair_items(left, right)
    same = left == right and type(left) is type(right)
    return node(left, differs=not same), node(right, differs=not same)


def node(value: Any, *, lone: bool = False, differs: bool = False) -> Node:
    """The node of a value by itself."""
    if isinstance(value, dict) and value:
        labels = tuple(humanize(name) for name in value)
        children = tuple(node(each) for each in value.values())
        return Node("fields", (), labels, children, titled=_is_titled(value), lone=lone)
    if isinstance(value, list) and value:
        if _are_pairs(value):
            return Node("pairs", children=tuple(_pair_node(each) for each in value), lone=lone)
        return Node("items", children=tuple(node(each) for each in value), lone=lone)
    if value is None or value in ("", [], {}):
        return Node("nothing", lone=lone)
    return Node("text", _paragraphs((Span(_plain(value), differs),)), lone=lone)


_MISSING: Any = object()


def _pair_fields(left: dict[str, Any], right: dict[str, Any]) -> tuple[Node, Node]:
    names = list(dict.fromkeys([*left, *right]))
    both = {name: pair(left[name], right[name]) for name in names if name in left and name in right}
    sides = []
    for index, document in enumerate((left, right)):
        children = tuple(
            both[name][index] if name in both else node(document[name], lone=True)
            for name in names
            if name in document
        )
        labels = tuple(humanize(name) for name in names if name in document)
        sides.append(Node("fields", (), labels, children, titled=_is_titled(document)))
    return sides[0], sides[1]


def _pair_items(left: list[Any], right: list[Any]) -> tuple[Node, Node]:
    kind: Kind = "pairs" if _are_pairs(left) and _are_pairs(right) else "items"
    lefts: list[Node] = []
    rights: list[Node] = []
    for a, b in _aligned(left, right):
        if a is not _MISSING and b is not _MISSING:
            one, other = pair(a, b)
            lefts.append(one)
            rights.append(other)
        elif b is _MISSING:
            lefts.append(node(a, lone=True))
        else:
            rights.append(node(b, lone=True))
    return Node(kind, children=tuple(lefts)), Node(kind, children=tuple(rights))


def _aligned(left: Sequence[Any], right: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    if max(len(left), len(right)) > _MOST_ITEMS:
        blocks = [("replace", 0, len(left), 0, len(right))]
    else:
        names = [_name(item) for item in left], [_name(item) for item in right]
        blocks = list(SequenceMatcher(None, *names, autojunk=False).get_opcodes())
    for _, left_from, left_to, right_from, right_to in blocks:
        for offset in range(max(left_to - left_from, right_to - right_from)):
            at_left, at_right = left_from + offset, right_from + offset
            yield (
                left[at_left] if at_left < left_to else _MISSING,
                right[at_right] if at_right < right_to else _MISSING,
            )


def _name(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item).casefold()
    found = next((item[name] for name in _NAMES if isinstance(item.get(name), str)), None)
    return " ".join(str(found if found is not None else item).casefold().split())


def _is_titled(document: Mapping[str, Any]) -> bool:
    first = next(iter(document.items()), None)
    return first is not None and first[0] in _NAMES and isinstance(first[1], str)


def _are_pairs(items: Sequence[Any]) -> bool:
    return all(isinstance(item, dict) and set(item) in _PAIR for item in items)


def _pair_node(item: dict[str, Any]) -> Node:
    return node(item)


def _text(spans: Sequence[Span], reworded: bool) -> Node:
    if not any(span.text for span in spans):
        return NOTHING
    return Node("text", _paragraphs(spans), reworded=reworded)


def _paragraphs(spans: Sequence[Span]) -> tuple[tuple[Span, ...], ...]:
    paragraphs: list[list[Span]] = [[]]
    for span in spans:
        first, *others = re.split(r"\r\n|[\r\n\u2028\u2029]", span.text)
        paragraphs[-1].append(Span(first, span.differs))
        paragraphs.extend([Span(line, span.differs)] for line in others)
    kept = [tuple(s for s in paragraph if s.text) for paragraph in paragraphs]
    return tuple(paragraph for paragraph in kept if any(s.text.strip() for s in paragraph))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def digest_of(document: Mapping[str, Any], most: int = 90) -> str:
    """A line that tells a document from others: its shortest texts first, as far as they fit."""
    texts = sorted(
        (" ".join(_plain(v).split()) for v in document.values() if isinstance(v, str) and v),
        key=len,
    )
    line = " · ".join(texts)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def humanize(name: str) -> str:
    """A field's name as a heading: `key_points` is "Key points"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
