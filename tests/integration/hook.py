"""A webhook: a real HTTP server that answers well, badly, late, or not at all."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: In its path: whoever shows that shows a secret.
SECRET = "T0KEN"


class Hook:
    """A webhook that notes what it gets and answers as its `answer` is set."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        self.answer: str = "200"
        self.release = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                hook.requests.append((self.path, headers, json.loads(body)))
                hook.bodies.append(body)
                hook.respond(self)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/{SECRET}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        match self.answer:
            case "hang":
                self.release.wait(30)
            case "garbage":
                handler.wfile.write(b"\x00\xff nonsense\r\n\r\n")
            case "trickle":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not self.release.wait(0.05):
                    try:
                        handler.wfile.write(b"x")
                    except OSError:
                        return
            case "flood":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while not self.release.is_set():
                    try:
                        handler.wfile.write(b"x" * 65536)
                    except OSError:
                        return
            case "redirect":
                handler.send_response(307)
                handler.send_header("Location", self.url.replace("hook", "elsewhere"))
                handler.send_header("Content-Length", "0")
                handler.end_headers()
            case status:
                handler.send_response(int(status))
                handler.send_header("Content-Length", "5")
                handler.end_headers()
                handler.wfile.write(b"no ok")

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
