from __future__ import annotations

import pytest

from worker.limits.classes import model_class


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-sonnet-5-5", "claude-sonnet-5"),
        ("claude-sonnet-5-5-20260901", "claude-sonnet-5"),
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-opus-5-5", "claude-opus-5"),
        ("claude-3-5-sonnet-20241022", "claude-sonnet-3"),
        ("claude-3-opus-latest", "claude-opus-3"),
        ("claude-instant-1.2", "claude-instant-1.2"),
        ("claude-sonnet", "claude-sonnet"),
        ("my-own-model", "my-own-model"),
        ("", ""),
    ],
)
def test_models_of_a_family_and_major_version_share_a_class(model: str, expected: str) -> None:
    assert model_class(model) == expected


def test_a_long_name_is_cut() -> None:
    assert len(model_class("x" * 10_000)) == 100
