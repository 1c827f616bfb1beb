"""`claude-jobs api`: the HTTP gateway."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from worker import logs
from worker.cli.output import check_database, err
from worker.engine.registry import load_registry
from worker.errors import ConfigurationError
from worker.settings import get_settings


def api(
    document: Annotated[
        bool, typer.Option("--openapi", help="Print the OpenAPI document; serve nothing.")
    ] = False,
) -> None:
    """Serve the HTTP gateway until Ctrl-C; see CLAUDE_JOBS_API_… in `claude-jobs config`."""
    _require_extra()
    if document:
        from api.app import describe

        typer.echo(json.dumps(describe(), indent=2))
        return
    from api.serving import serve

    settings = get_settings()
    load_registry()
    check_database()
    logs.configure(settings.log_level, as_json=settings.environment == "production")
    err.print(f"the gateway is at http://{settings.api_host}:{settings.api_port}, until Ctrl-C")
    serve(settings)


def _require_extra() -> None:
    try:
        import fastapi
        import httptools
        import uvicorn
        import uvloop
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the gateway needs the package {error.name}: pip install 'claude-jobs[api]'"
        ) from None
    del fastapi, httptools, uvicorn, uvloop
