"""What we tell a server about its client: X-Forwarded-*, X-Real-IP, Forwarded (RFC 7239), Via, X-Request-ID.

Pure. What a client says of itself is believed only when the peer is a trusted proxy; everything else
of that kind was cut from the head before. The lines of an untrusted peer depend on its address and
the Host alone, so a connection keeps them (`Peer`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from greenproxy.http.grammar import HOST
from greenproxy.http.head import RequestHead

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_PREFIX = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")


_OURS = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto"})


class Forwarding(NamedTuple):
    """Header lines for the server, and who the client is as far as trusted proxies tell.

    `host` is the name that was asked for, for matching: lower-case, without port.
    `prefix` is the X-Forwarded-Prefix a trusted proxy gave; `request_id` is empty when one must be made.
    """

    lines: bytes
    host: str
    client_ip: str
    scheme: str
    request_id: bytes
    prefix: bytes


class Peer:
    """The other end of one client connection."""

    __slots__ = ("_host", "_plain", "ip", "port", "scheme", "trusted")

    def __init__(self, ip: str, port: int, scheme: str, trusted: bool) -> None:
        self.ip = ip
        self.port = port
        self.scheme = scheme
        self.trusted = trusted
        self._host: bytes | None = None
        self._plain = Forwarding(b"", "", ip, scheme, b"", b"")

    def forwarding(self, head: RequestHead, host: bytes, trusted_proxies: Sequence[Network]) -> Forwarding:
        """Return what to tell a server about a request of this peer that is meant for `host`."""
        if self.trusted:
            return _of_trusted(head, host, self, trusted_proxies)
        if host != self._host:
            self._host = host
            forwarded = _forwarded(self.ip, self.scheme, host)
            lines = _lines(self.ip.encode(), self.ip, self.scheme.encode(), host, forwarded)
            self._plain = Forwarding(lines, host_name(host), self.ip, self.scheme, b"", b"")
        return self._plain


def host_name(authority: bytes) -> str:
    """Return the host of an authority for matching: lower-case, without port and final dot."""
    host = authority.decode("latin-1").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def is_trusted(ip: str, trusted_proxies: Sequence[Network]) -> bool:
    """Is `ip` one of the trusted proxies? What is not an address is not."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return any(address in network for network in trusted_proxies)


def _lines(forwarded_for: bytes, client_ip: str, scheme: bytes, host: bytes, forwarded: bytes) -> bytes:
    host_line = b"X-Forwarded-Host: %b\r\n" % host if host else b""
    return (
        b"X-Forwarded-For: %b\r\nX-Real-IP: %b\r\nX-Forwarded-Proto: %b\r\n%bForwarded: %b\r\n"
        b"Via: 1.1 greenproxy\r\n" % (forwarded_for, client_ip.encode(), scheme, host_line, forwarded)
    )


def _forwarded(ip: str, scheme: str, host: bytes) -> bytes:
    """One element of Forwarded (RFC 7239 4); an IPv6 address needs brackets and quotes (section 6)."""
    node = f'"[{ip}]"' if ":" in ip else ip
    host_pair = b'host="%b";' % host if host else b""
    return b"for=%b;%bproto=%b" % (node.encode(), host_pair, scheme.encode())


def _of_trusted(head: RequestHead, host: bytes, peer: Peer, trusted_proxies: Sequence[Network]) -> Forwarding:
    """Believe what the trusted proxy says, add what we see, and find the client behind it."""
    values = head.values
    chain = values.get(b"x-forwarded-for", b"")
    scheme = values.get(b"x-forwarded-proto", b"").lower()
    if scheme not in (b"http", b"https"):
        scheme = peer.scheme.encode()
    original_host = values.get(b"x-forwarded-host", host)
    if HOST.fullmatch(original_host) is None:
        original_host = host
    client_ip = _client_of(chain, peer.ip, trusted_proxies)
    forwarded_for = chain + b", " + peer.ip.encode() if chain else peer.ip.encode()
    element = _forwarded(peer.ip, scheme.decode(), host)
    before = values.get(b"forwarded")
    forwarded = before + b", " + element if before else element
    request_id = values.get(b"x-request-id", b"")
    if _SANE_REQUEST_ID.fullmatch(request_id) is None:
        request_id = b""
    prefix = values.get(b"x-forwarded-prefix", b"")
    if _PREFIX.fullmatch(prefix) is None:
        prefix = b""
    lines = _lines(forwarded_for, client_ip, scheme, original_host, forwarded) + _vouched(values)
    if prefix:
        lines += b"X-Forwarded-Prefix: %b\r\n" % prefix.rstrip(b"/")
    return Forwarding(lines, host_name(host), client_ip, scheme.decode(), request_id, prefix.rstrip(b"/"))


def _vouched(values: Mapping[bytes, bytes]) -> bytes:
    """Return what else a trusted proxy says of its client, unchanged."""
    return b"".join(
        b"%b: %b\r\n" % (name.title(), value)
        for name, value in values.items()
        if name.startswith(b"x-forwarded-") and name not in _OURS
    )


def _client_of(chain: bytes, peer_ip: str, trusted_proxies: Sequence[Network]) -> str:
    """Walk X-Forwarded-For from the right past trusted proxies; the first other address is the client.

    What is not an address ends the walk: nothing to its left can be vouched for.
    """
    client = peer_ip
    for entry in reversed(chain.decode("latin-1").split(",")):
        ip = entry.strip()
        if "%" in ip:
            break  # a scope is of no meaning elsewhere, and its text is free
        try:
            client = str(ipaddress.ip_address(ip))
        except ValueError:
            break
        if not is_trusted(client, trusted_proxies):
            break
    return client
