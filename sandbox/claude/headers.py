"""What a request's headers must say before its body is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandbox.claude.betas import parse_betas
from sandbox.claude.errors import ApiError

_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")


def check_headers(headers: Mapping[str, str], api_key: str | None) -> frozenset[str]:
    """The beta features that the request asks for.

    Raises a 401 for a missing or – if `api_key` is set – a wrong key, and a 400 for a version
    that is no date or a beta that does not exist.
    """
    key = headers.get("x-api-key")
    if key is None:  # the SDK sends the key as a bearer token
        key = headers.get("authorization", "").removeprefix("Bearer ")
    if not key:
        raise ApiError(401, "x-api-key header is required")
    if api_key is not None and key != api_key:
        raise ApiError(401, "invalid x-api-key")
    version = headers.get("anthropic-version")
    if version is None:
        raise ApiError(400, "anthropic-version: header is required")
    if not _VERSION.fullmatch(version):
        raise ApiError(400, f'anthropic-version: "{version}" is not a valid version')
    betas = headers.get("anthropic-beta")
    return parse_betas(betas) if betas else frozenset()
