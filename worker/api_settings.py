"""The settings of the HTTP gateway; part of `worker.settings.Settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from worker.setting_types import HttpUrl, Origins


class ApiSettings(BaseSettings):
    """What `claude-jobs api` goes by."""

    api_host: str = Field(
        "127.0.0.1",
        description="Where the HTTP gateway listens. It speaks plain HTTP: put a proxy with TLS "
        "before anything wider than this machine.",
    )
    api_port: int = Field(8000, ge=0, le=65535, description="The HTTP gateway's port.")
    api_processes: int = Field(
        1, gt=0, le=64, description="Processes of the HTTP gateway; one uses one core."
    )
    api_connections: int = Field(
        5000,
        gt=0,
        description="Open connections of one gateway process; it closes any beyond at once.",
    )
    api_streams: int = Field(
        2000,
        gt=0,
        description="Event streams and `?wait=` requests that one service may have open in one "
        "gateway process, so that none takes every connection.",
    )
    api_receive_seconds: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        description="A request's headers must have arrived within so long, and so must its body; "
        "the connection is closed otherwise.",
    )
    api_keep_alive_seconds: int = Field(
        75,
        gt=0,
        description="An idle connection to the gateway is closed after so long. Longer than the "
        "proxy before it keeps one (nginx and AWS: 60 s), or requests meet closed connections.",
    )
    api_wait_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="The longest `?wait=` that the gateway takes.",
    )
    api_body_bytes: int = Field(
        64_000_000,
        gt=0,
        description="Bytes of bodies, batches aside, that one service may have in one gateway "
        "process at a time, from their beginning until their jobs are inserted.",
    )
    api_input_values: int = Field(
        20_000,
        gt=0,
        description="Values that the JSON of one job may have: arrays, objects, and what is in "
        "them. A process does nothing else while it checks them, some 5 µs for each.",
    )
    api_batch_bytes: int = Field(
        32_000_000,
        gt=0,
        description="The largest body of POST /v1/jobs/batch; five times as much memory while it "
        "is taken in. Of one service a process reads two at once, the others wait.",
    )
    api_cors_origins: Origins = Field(
        (),
        description="Origins whose pages may call the gateway from a browser, with commas. None "
        "unless set: a key in a web page is everybody's.",
    )
    api_flower_url: HttpUrl | None = Field(
        None, description="Where Flower is; the page at `/` links to it if this is set."
    )
    api_samples_dir: Path | None = Field(
        None,
        description="A folder of sample inputs, `<task>.jsonl`, that the page at `/` offers to "
        "load. For trying things out; none in production.",
    )
    api_access_log: bool = Field(
        True, description="Log a line for every request: route, status, duration, service and key."
    )
