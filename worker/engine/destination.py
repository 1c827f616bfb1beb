"""Where a job's webhook may point: whoever enqueues names it, so it must not reach what is ours.

A name is resolved once, the addresses are looked at, and then they are called and not the name:
otherwise a second answer of its DNS server could be another one.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from worker.engine.outgoing import NotDelivered

_LONGEST = 2048
#: What counts as global – to older Pythons at least – and is near: Oracle's and Azure's services.
_NEAR = (ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32"))
#: All the IPv6 addresses that were ever given out.
_UNICAST = ip_network("2000::/3")
#: IPv4 in IPv6, by a translator that stands in our network.
_NAT64 = ip_network("64:ff9b::/96")


def malformed_url(url: str) -> str | None:
    """What is wrong with a webhook's URL as such, without the URL; None when nothing is.

    Whether its host may be called is found out when it is: names can be pointed anywhere later on.
    """
    if len(url) > _LONGEST:
        return f"has {len(url):,} characters; {_LONGEST:,} are the most"
    if not re.fullmatch(r"[!-~]+", url):
        return "has characters that must be %-encoded, or in its host written as xn--…"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # an unclosed bracket, a port that is none
        return "is malformed: expected https://host/path"
    if parts.scheme not in ("http", "https") or not host:
        return "is malformed: expected https://host/path"
    return None


def addresses_of(url: str, *, allow_private: bool) -> list[str]:
    """The addresses that a webhook may be called at, in the resolver's order.

    Raises:
        NotDelivered: its host has none, or none that is public.
    """
    if problem := malformed_url(url):
        raise NotDelivered(f"its URL {problem}", for_good=True)
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a part of its name that is empty, or longer than 63 characters
        raise NotDelivered("its URL names a host that cannot be one", for_good=True) from None
    except OSError as error:
        raise NotDelivered(f"its host was not found: {error.strerror}") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    allowed = [each for each in addresses if allow_private or is_public(each)]
    if not allowed:
        raise NotDelivered(
            "its host is not on the internet (private, loopback or link-local address); "
            "CLAUDE_JOBS_WEBHOOK_ALLOW_PRIVATE allows that"
        )
    return allowed


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, whatever it is wrapped in."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and (inner := _wrapped(ip)):
        ip = inner
    if isinstance(ip, IPv6Address):
        return ip.is_global and ip in _UNICAST
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NEAR)


def _wrapped(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a mapped, translated or tunnelled IPv6 address leads to."""
    if ip in _NAT64 or ip.packed[:12] == bytes(12):
        return IPv4Address(ip.packed[12:])
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
