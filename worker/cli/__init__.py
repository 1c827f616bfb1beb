"""The `claude-jobs` command."""

from __future__ import annotations

import sys

from sqlalchemy.exc import DBAPIError

from worker.cli.app import app
from worker.errors import ClaudeJobsError

__all__ = ["main"]


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr and exit code 1."""
    try:
        app()
    except ClaudeJobsError as error:
        _fail(str(error))
    except DBAPIError as error:
        _fail(f"Postgres: {str(error.orig).strip().partition(chr(10))[0]}")
    except UnicodeEncodeError:
        wrong = next((each for each in sys.argv[1:] if not _is_utf8(each)), None)
        if wrong is None:
            raise
        _fail(f"argument {wrong!a}: not in UTF-8")
    except BrokenPipeError:
        sys.exit(1)


def _is_utf8(argument: str) -> bool:
    """Bytes that are none come as lone surrogates, which neither Postgres nor a pipe takes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(message: str) -> None:
    shown = message.encode(errors="backslashreplace").decode()  # whatever was typed
    sys.stderr.write(f"claude-jobs: {shown}\n")
    sys.exit(1)
