"""When the client tries again: the decision, without a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from claude_jobs_client import Retries, TooManyRequests, Unavailable
from claude_jobs_client.http import Request, check


def test_pauses_double_up_to_the_longest_and_end() -> None:
    retries = Retries(tries=6, first=1.0, longest=4.0)
    pauses = [retries.pause(tried, Unavailable("")) for tried in range(1, 7)]
    for pause, most in zip(pauses, [1, 2, 4, 4, 4], strict=False):
        assert pause is not None
        assert most / 2 <= pause <= most
    assert pauses[5] is None


def test_by_default_a_restart_is_waited_for() -> None:
    pauses = [Retries().pause(tried, Unavailable("")) or 0.0 for tried in range(1, 8)]
    assert 11 < sum(pauses) < 24


@pytest.mark.parametrize(("after", "waited"), [(0.0, True), (60.0, True), (61.0, False)])
def test_a_retry_after_is_kept_to_within_patience(after: float, waited: bool) -> None:
    pause = Retries().pause(1, TooManyRequests("", retry_after=after))
    assert (pause is not None) == waited
    assert pause is None or pause > after


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("soon", None), ("", None), ("-1", None), ("date", 30)]
)
def test_a_retry_after_has_seconds_or_a_date(header: str, seconds: float | None) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with pytest.raises(Unavailable) as caught:
        check(Request("GET", "/"), httpx2.Response(503, headers={"retry-after": header}))
    assert caught.value.retry_after == (None if seconds is None else pytest.approx(seconds, abs=2))


@pytest.mark.parametrize("options", [{"tries": 0}, {"first": -1.0}, {"longest": -1.0}])
def test_retries_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="tries is 1 or more"):
        Retries(**options)  # type: ignore[arg-type]
