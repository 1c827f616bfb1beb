"""JSON as documents: what corresponds stands in one row."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.review.document import Node, alone, compare, humanize, node, pair


def texts(part: Node | None) -> list[str]:
    """Every text of a node, in order; marked words in brackets."""
    if part is None:
        return []
    own = [
        "".join(f"[{span.text}]" if span.differs else span.text for span in paragraph)
        for paragraph in part.paragraphs
    ]
    return own + [text for child in part.children for text in texts(child)]


def item(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "description": description}


def test_fields_correspond_by_name_and_items_by_what_they_are_called() -> None:
    left = {"title": "Deed", "items": [item("Price", "10 dollars"), item("Date", "May")]}
    right = {"title": "Deed", "items": [item("Seller", "Ann"), item("Price", "20 dollars"),
                                        item("Date", "May")]}  # fmt: skip

    rows = compare(left, right)

    assert [row.label for row in rows] == ["Title", "Items", "Items", "Items"]
    assert (rows[1].left, texts(rows[1].right)) == (None, ["Seller", "Ann"])
    assert rows[1].right is not None
    assert rows[1].right.lone
    assert texts(rows[2].left) == ["Price", "[10] dollars"]
    assert texts(rows[2].right) == ["Price", "[20] dollars"]
    assert texts(rows[3].left) == texts(rows[3].right) == ["Date", "May"]


def test_lists_of_keys_and_values_become_pairs_and_long_texts_paragraphs() -> None:
    pairs = node([{"key": "party", "value": "Ann"}, {"key": "date", "value": "May"}])
    assert pairs.kind == "pairs"
    assert texts(pairs) == ["party", "Ann", "date", "May"]
    assert texts(node("One.\n\nTwo.\r\nThree.")) == ["One.", "Two.", "Three."]
    assert node([]).kind == node("").kind == node(None).kind == "nothing"
    assert texts(node(True)) == ["yes"]


def test_values_of_different_kinds_are_shown_and_marked() -> None:
    left, right = pair({"a": 1}, {"a": "one"})
    assert (texts(left), texts(right)) == (["[1]"], ["[one]"])
    left, right = pair(True, 1)
    assert (texts(left), texts(right)) == (["[yes]"], ["[1]"])
    left, right = pair({"a": [1, 2]}, {"b": None})
    assert left.children[0].lone
    assert right.children[0].lone


def test_a_thousand_items_are_compared_at_once() -> None:
    many = [item(f"n{i}", "same words in each of them") for i in range(1000)]
    assert len(compare({"items": many}, {"items": many[::-1]})) == 1000


def test_names_become_headings() -> None:
    assert humanize("key_points") == "Key points"
    assert humanize("") == ""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "key", "value", "a", "b"]), inner, max_size=4)
    ),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["title", "items", "c"]), VALUES, max_size=3)


def words(*parts: Node | None) -> Counter[str]:
    found = Counter[str]()
    for part in parts:
        if part is not None:
            found.update("".join(s.text for s in line) for line in part.paragraphs)
            found.update(words(*part.children))
    return found


@given(DOCUMENTS, DOCUMENTS)
def test_beside_another_a_document_says_what_it_says_alone(
    left: dict[str, Any], right: dict[str, Any]
) -> None:
    rows = compare(left, right)

    assert words(*(row.left for row in rows)) == words(*(row.left for row in alone(left)))
    assert words(*(row.right for row in rows)) == words(*(row.left for row in alone(right)))
