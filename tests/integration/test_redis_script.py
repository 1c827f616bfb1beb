"""A script in Redis, called on connections that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from worker.redis_script import Script

#: Answers with its argument, or fails if that is a minus.
ECHO = "if ARGV[1] == '-' then return redis.error_reply('no minus') end return KEYS[1] .. ARGV[1]"


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        yield client


@pytest.fixture
def script(server: redis.Redis) -> Iterator[Script]:
    script = Script(server.connection_pool, ECHO)
    yield script
    script.close()


def test_several_calls_are_answered_in_order(script: Script) -> None:
    assert script.run([["k", n] for n in (3, 1, 2)]) == [b"k3", b"k1", b"k2"]


def test_a_server_that_has_forgotten_it_is_told_anew(script: Script, server: redis.Redis) -> None:
    for _ in range(2):
        server.script_flush()
        assert script.run([["k", 1], ["k", 2]]) == [b"k1", b"k2"]


def test_a_connection_that_the_server_has_closed_is_no_outage(
    script: Script, server: redis.Redis
) -> None:
    assert script.run([["k", 1]]) == [b"k1"]
    server.client_kill_filter(_type="normal", skipme=True)
    assert script.run([["k", 2]]) == [b"k2"]


def test_what_fails_leaves_nothing_behind_for_the_next(script: Script) -> None:
    with pytest.raises(redis.ResponseError, match="no minus"):
        script.run([["k", 1], ["k", "-"], ["k", 2]])
    assert script.run([["k", 3]]) == [b"k3"]


def test_threads_do_not_get_each_others_answers(script: Script) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda n: script.run([["k", n]]), range(400))
        assert list(answers) == [[f"k{n}".encode()] for n in range(400)]
