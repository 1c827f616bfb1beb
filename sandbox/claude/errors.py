"""API errors, in the shape in which Claude sends them."""

from __future__ import annotations

from collections.abc import Mapping

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The usual `error.type` of each status; any other is an `api_error`."""

MESSAGES = {
    429: "This request would exceed your organization's rate limit.",
    500: "Internal server error",
    504: "The request timed out.",
    529: "Overloaded",
}


class ApiError(Exception):
    """A request that Claude answers with an error."""

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`message`: None = the usual one of the status."""
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.error_code = error_code
        self.headers = headers or {}


def error_type(status: int) -> str:
    """The `error.type` that goes with an HTTP status."""
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_body(
    status: int,
    message: str | None,
    request_id: str,
    *,
    type_: str | None = None,
    error_code: str | None = None,
) -> dict[str, object]:
    """The JSON body of an error; `error_code` goes where the SDK looks for it, in `details`."""
    error: dict[str, object] = {
        "type": type_ or error_type(status),
        "message": message or MESSAGES.get(status, f"Simulated error {status}"),
    }
    if error_code is not None:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": request_id}
