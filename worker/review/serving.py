"""Running the server: on loopback only, under an address that nobody guesses."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from worker.errors import ConfigurationError


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; 0 is any free port.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigurationError(
            f"cannot listen on 127.0.0.1:{port}: {error}; choose another with --port"
        ) from None
    return bound


def new_secret() -> str:
    """What makes an address unguessable."""
    return secrets.token_urlsafe(24)


def url(bound: socket.socket, secret: str) -> str:
    """The address of the first page."""
    return f"http://127.0.0.1:{bound.getsockname()[1]}/{secret}/"


def http_server(app: ASGIApp) -> uvicorn.Server:
    """uvicorn without a log of requests: their paths hold the secret."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )


def serve(app: Callable[[str], ASGIApp], port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `app` makes the application for a secret; `announce` gets the address.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    secret = new_secret()
    with listen(port) as bound, suppress(KeyboardInterrupt):
        announce(url(bound, secret))
        http_server(app(secret)).run(sockets=[bound])
