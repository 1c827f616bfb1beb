"""The local web server of a review. Whoever knows the URL is a reviewer; nobody else gets in.

A page of somebody else's that the reviewer's browser has open must neither read nor write: the
secret in the path keeps it from naming a page, the Host header must say this machine (a name that
was rebound to loopback says another), and what is posted must come from this very origin.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qs, quote, unquote

from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.engine.registry import AnyTask
from worker.errors import ClaudeJobsError, InvalidInput, StorageUnavailable
from worker.review import pages
from worker.review.pages import State
from worker.review.verdicts import clean_name, to_verdict
from worker.storage import review_samples, reviews
from worker.storage.engine import transaction
from worker.storage.reviews import Review

HOSTS = ["127.0.0.1", "localhost"]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # With `no-referrer`, browsers hide the origin of a form as well.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

#: A note at its longest, each character four bytes of UTF-8 and each byte three characters.
_MOST_BODY = 150_000
_COOKIE = "reviewer"


class Guard:
    """Adds the security headers, and turns away what does not know the secret or comes from
    another origin. Behind it, the secret is the application's root path."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        request = Request(scope)
        given = scope["path"].removeprefix("/").partition("/")[0]  # of `OPTIONS *` it is "*"
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            await _said(404, "Not found", "Open the address that the command printed.")(
                scope, receive, send_with_headers
            )
            return
        origin = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if request.method not in ("GET", "HEAD") and request.headers.get("origin") != origin:
            await _said(403, "Not accepted", "This was not sent by a page of this server.")(
                scope, receive, send_with_headers
            )
            return
        await self._app({**scope, "root_path": f"/{given}"}, receive, send_with_headers)


class Server:
    """The pages of one review; every request reads the newest state from Postgres.

    Args:
        reviewer: who reviews, unless a browser has said otherwise; None: each is asked.
        suggested: what the question for the name is answered with beforehand.
    """

    def __init__(
        self, review: Review, task: AnyTask, reviewer: str | None, suggested: str = ""
    ) -> None:
        self._review = review
        self._task = task
        self._reviewer = reviewer
        self._suggested = suggested

    def app(self, secret: str) -> ASGIApp:
        """The ASGI application, under `/<secret>/`."""
        routes = [
            Route("/", self._overview),
            Route("/reviewer", self._name, methods=["POST"]),
            Route("/samples/{number:int}", self._sample, methods=["GET"]),
            Route("/samples/{number:int}", self._judge, methods=["POST"]),
            Route("/review.css", _asset("review.css", "text/css")),
            Route("/review.js", _asset("review.js", "text/javascript")),
        ]
        middleware = [
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(Guard, secret=secret),
        ]
        return Starlette(
            routes=routes,
            middleware=middleware,
            exception_handlers={
                404: _not_found,
                ClaudeJobsError: _refused,
                DBAPIError: _unreachable,
                StorageUnavailable: _unreachable,
            },
        )

    def state(self) -> State:
        """Everything there is to know now."""
        with transaction() as connection:
            return State(
                self._review,
                self._task,
                review_samples.samples(connection, self._review.id),
                reviews.verdicts(connection, self._review.id),
            )

    def _overview(self, request: Request) -> Response:
        reviewer = self._who(request)
        return HTMLResponse(pages.overview(self.state(), reviewer, self._suggested))

    def _sample(self, request: Request) -> Response:
        reviewer, number = self._who(request), request.path_params["number"]
        state = self.state()
        if not reviewer or not 0 < number <= len(state.samples):
            return RedirectResponse("../", 303)
        return HTMLResponse(pages.sample_page(state, number, reviewer))

    async def _name(self, request: Request) -> Response:
        form = await _form(request)
        name = clean_name(form["name"]) if form.get("name") else ""
        answer = RedirectResponse("./", 303)
        path = f"{request.scope['root_path']}/"
        answer.set_cookie(_COOKIE, quote(name), path=path, httponly=True, samesite="strict")
        return answer

    async def _judge(self, request: Request) -> Response:
        form = await _form(request)
        return await run_in_threadpool(self._keep, request, form)

    def _keep(self, request: Request, form: dict[str, str]) -> Response:
        reviewer, number = self._who(request), request.path_params["number"]
        state = self.state()
        if not reviewer or not 0 < number <= len(state.samples):
            return RedirectResponse("../", 303)
        sample = state.samples[number - 1]
        was_done = state.done(reviewer)
        verdict = to_verdict(
            state.review,
            sample,
            form.get("choice", ""),
            reviewer=reviewer,
            note=form.get("note", ""),
            blind=not was_done,
        )
        before = state.of(reviewer).get(number)
        if before is None or replace(before, blind=True, created_at=None) != replace(
            verdict, blind=True
        ):
            with transaction() as connection:
                reviews.add_verdict(connection, state.review.id, verdict)
        others = [each for each in state.samples if each.number != number]
        following = pages.next_open(replace(state, samples=others), reviewer, number)
        return RedirectResponse("../" if following is None else str(following), 303)

    def _who(self, request: Request) -> str:
        said = request.cookies.get(_COOKIE)
        if said is None:
            return self._reviewer or ""
        with suppress(InvalidInput):  # a cookie can hold anything
            return clean_name(unquote(said))
        return ""


def _asset(name: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(pages.asset(name), media_type=kind)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form.

    Raises:
        InvalidInput: it is too large.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY:
            raise InvalidInput("what was sent is too large: shorten the note")
    try:
        found = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise InvalidInput("what was sent is not a form of this page") from None
    return {name: values[-1] for name, values in found.items()}


def _not_found(request: Request, error: Exception) -> Response:
    return _said(404, "Not found", "There is no such page.")


def _refused(request: Request, error: Exception) -> Response:
    return _said(400, "Not accepted", f"{error}. Nothing was stored: go back and try again.")


def _unreachable(request: Request, error: Exception) -> Response:
    return _said(503, "Postgres cannot be reached", "Nothing was stored: go back and try again.")


def _said(status: int, title: str, message: str) -> Response:
    return HTMLResponse(pages.message_page(title, message), status)
