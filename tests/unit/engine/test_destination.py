"""Which addresses a job's webhook may be called at."""

from __future__ import annotations

import pytest

from worker.engine.destination import addresses_of, is_public
from worker.engine.outgoing import NotDelivered

NEAR = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",  # noqa: S104
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of most clouds
    "100.64.0.1",
    "100.100.100.200",  # and of Alibaba's
    "168.63.129.16",  # and of Azure's
    "192.0.0.192",  # and of Oracle's
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo, of 127.0.0.1
    "fd00:ec2::254",  # AWS's over IPv6
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "2001:db8::1",
]
FAR = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


def test_what_is_near_is_told_from_what_is_public() -> None:
    assert [address for address in NEAR if is_public(address)] == []
    assert [address for address in FAR if not is_public(address)] == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0",
     "0x7f000001", "017700000001", "[::1]", "[::ffff:7f00:1]",
     "[::ffff:127.0.0.1]", "user:secret@127.0.0.1:8080"],
)  # fmt: skip
def test_however_loopback_is_written_it_is_refused(host: str) -> None:
    with pytest.raises(NotDelivered, match="not on the internet") as caught:
        addresses_of(f"http://{host}/secret", allow_private=False)

    assert "secret" not in str(caught.value)
    assert addresses_of(f"http://{host}/", allow_private=True)


@pytest.mark.parametrize(
    ("url", "reason", "for_good"),
    [
        ("http://no-such-host.invalid/secret", "its host was not found", False),
        ("http://10.0.0.1/secret", "its host is not on the internet", False),
        ("http://a..b/secret", "its URL names a host that cannot be one", True),
        ("http://" + "x" * 70 + ".example/secret", "its URL names a host that cannot be", True),
        ("file:///etc/secret", "its URL is malformed", True),
        ("gopher://127.0.0.1/secret", "its URL is malformed", True),
    ],
)
def test_what_cannot_be_called_is_said_without_the_url(
    url: str, reason: str, for_good: bool
) -> None:
    with pytest.raises(NotDelivered, match=reason) as caught:
        addresses_of(url, allow_private=False)

    assert "secret" not in str(caught.value)
    assert caught.value.for_good is for_good
