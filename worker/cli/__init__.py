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
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str) -> None:
    sys.stderr.write(f"claude-jobs: {message}\n")
    sys.exit(1)
