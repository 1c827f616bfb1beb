from __future__ import annotations

import pytest

from worker.errors import ConfigurationError
from worker.setting_types import LimitCaps
from worker.settings import get_settings


def test_no_limits_need_to_be_configured() -> None:
    assert get_settings().limits == {}
    assert get_settings().limit_share == 1.0


def test_caps_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CLAUDE_JOBS_LIMITS", '{"claude-sonnet-5": {"requests": 1000, "output_tokens": 80000}}'
    )

    caps = get_settings().limits["claude-sonnet-5"]
    assert caps == LimitCaps(requests=1000, input_tokens=None, output_tokens=80_000)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("s3cret", "JSON"),
        ("[1]", "claude-sonnet-5"),
        ('{"claude-sonnet-5": 5}', "claude-sonnet-5"),
        ('{"claude-sonnet-5": {"requests": 0}}', "claude-sonnet-5.requests"),
        ('{"claude-sonnet-5": {"requests": 1.5}}', "claude-sonnet-5.requests"),
        ('{"claude-sonnet-5": {"requests": "many"}}', "claude-sonnet-5.requests"),
        ('{"claude-sonnet-5": {"tokens": 5}}', "claude-sonnet-5.tokens"),
        ('{"claude-sonnet-5": {"requests": NaN}}', "requests"),
    ],
)
def test_a_malformed_cap_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, value: str, named: str
) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_LIMITS", value)
    with pytest.raises(ConfigurationError) as caught:
        get_settings()

    line = str(caught.value)
    assert line.startswith("CLAUDE_JOBS_LIMITS is malformed")
    assert named in line
    assert "\n" not in line
    assert "s3cret" not in line


@pytest.mark.parametrize("value", ["0", "-1", "1.1", "nan", "half"])
def test_a_share_is_a_part(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CLAUDE_JOBS_LIMIT_SHARE", value)
    with pytest.raises(ConfigurationError, match=r"^CLAUDE_JOBS_LIMIT_SHARE "):
        get_settings()
