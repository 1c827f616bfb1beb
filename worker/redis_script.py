"""A Lua script in Redis, called several times a round trip, on connections that are kept.

redis-py's `Redis` takes as long again to find its way to the connection and back: a callback, a
retry, four measurements and a look at the socket for each command.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

#: The keys that the script may touch, and its arguments.
Call = Sequence[str | bytes | float]


class Script:
    """Runs `text` with so many `keys` and any arguments; safe to use from any number of threads.

    Connections are made like those of `pool`: as many as calls were ever waited for at once.
    """

    def __init__(self, pool: redis.ConnectionPool, text: str, *, keys: int = 1) -> None:
        self._pool = pool
        self._text = text
        self._keys = keys
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._idle: deque[Any] = deque()

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to `calls`, in order.

        Raises:
            redis.RedisError, OSError: as the first of them that failed.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.make_connection()
        try:
            try:
                return self._run(connection, calls)
            except redis.ConnectionError:
                # Once more at once: the server may have closed a connection that was idle.
                return self._run(connection, calls)
        finally:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().disconnect()

    def _run(self, connection: Any, calls: Sequence[Call]) -> list[Any]:
        commands = [("EVALSHA", self._sha, self._keys, *call) for call in calls]
        answers = _exchange(connection, commands)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # A Redis that was started or flushed meanwhile: it knows all of them, or none.
            _, *answers = _exchange(connection, [("SCRIPT", "LOAD", self._text), *commands])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers


def _exchange(connection: Any, commands: Sequence[Any]) -> list[Any]:
    packed = connection.pack_commands(commands)
    connection.send_packed_command(packed, check_health=False)
    return [_answer(connection) for _ in commands]


def _answer(connection: Any) -> Any:
    # All of them have to be read, or the next to use the connection finds the rest.
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
