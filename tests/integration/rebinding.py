"""A webhook's name whose DNS server changes its mind; for a network namespace of its own.

Run by `test_webhook_dns.py`. Answers the name with a public address first and with loopback ever
after, where somebody listens; prints what came of posting to it, as JSON. There is no way out of
the namespace, so nothing is sent to the public address.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from pydantic import SecretStr

from worker.engine.job_webhooks import WebhookLoop
from worker.engine.outgoing import NotDelivered
from worker.settings import get_settings
from worker.storage.webhook_queue import Ended

FIRST, THEN = "8.8.8.8", "127.0.0.1"


def serve_names(names: socket.socket, asked: list[str]) -> None:
    """Answer every question: an A record with a TTL of 0, or no record of another type."""
    while True:
        query, client = names.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        is_a = query[end - 4 : end - 2] == b"\0\1"
        record = b""
        if is_a:
            address = THEN if asked else FIRST
            asked.append(address)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
        head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        names.sendto(head + query[12:end] + record, client)


def main(folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    configuration = {"resolv.conf": "nameserver 127.0.0.1\n", "nsswitch.conf": "hosts: dns\n"}
    for name, content in configuration.items():
        (folder / name).write_text(content)
        subprocess.run(["mount", "--bind", folder / name, f"/etc/{name}"], check=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    asked: list[str] = []
    threading.Thread(target=serve_names, args=(names, asked), daemon=True).start()
    private = socket.create_server(("127.0.0.1", 80))
    private.setblocking(False)

    now = datetime.now(UTC)
    url = "http://rebinding.example/"
    ended = Ended(uuid4(), url, "rebinding.example", 1, uuid4(), None, "t", "failed", now, None)
    own = {"webhook_secret": SecretStr("whsec_" + "A" * 32)}
    loop = WebhookLoop(get_settings().model_copy(update=own))
    reasons = []
    for _ in range(2):
        try:
            reasons.append(f"HTTP {loop._send(ended)}")
        except NotDelivered as error:
            reasons.append(str(error))
    try:
        private.accept()
        called = True
    except BlockingIOError:
        called = False
    sys.stdout.write(json.dumps({"reasons": reasons, "answers": asked, "private_called": called}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
