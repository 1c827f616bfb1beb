"""Running the gateway."""

from __future__ import annotations

import resource
from contextlib import suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from worker.settings import Settings

#: After SIGTERM, requests that are under way may finish for so long (seconds).
_GRACE = 10


def config(settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration; no part of it is left to its environment variables."""
    return uvicorn.Config(
        "api.app:create_app",
        factory=True,
        host=settings.api_host,
        port=settings.api_port,
        workers=settings.api_processes,
        http="api.protocol:GatewayProtocol",
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # it warns of every malformed request: scanners send many
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=settings.api_keep_alive_seconds,
        timeout_graceful_shutdown=_GRACE,
    )


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        SystemExit: it could not start; why is in the log.
    """
    _allow_connections(settings.api_connections + 200)
    configured = config(settings)
    bound = configured.bind_socket()
    if settings.api_processes > 1:
        Multiprocess(configured, sockets=[bound]).run()
        return
    server = uvicorn.Server(configured)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[bound])
    if not server.started:
        raise SystemExit(1)


def _allow_connections(wanted: int) -> None:
    """Raise the soft limit on open files as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
