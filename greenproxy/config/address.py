"""Where something listens or is reached: a TCP host and port, or a Unix socket.

Owns:       the text forms `127.0.0.1:80`, `[::1]:80`, `app.internal:80` and `unix:/run/a.sock`.
Leaves to:  listener and proxy (sockets), health/discovery.py (DNS).
Invariant:  str() gives back what parse() was given.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal

UNIX_PREFIX = "unix:"
MAX_SOCKET_PATH = 107  # sun_path is 108 bytes with its NUL (unix(7))
MAX_TEXT = 159  # what a row of the health table holds

# RFC 1123 2.1 names, and the underscore that container networks use.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\Z")
_TCP = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """One address; `host` and `port` for tcp, `path` for unix. An IPv6 host has no brackets here."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises ValueError; its message does not repeat the text.
        """
        if len(text.encode()) > MAX_TEXT:
            raise ValueError(f"an address has at most {MAX_TEXT} bytes")
        if text.startswith(UNIX_PREFIX):
            return cls.unix(text[len(UNIX_PREFIX) :])
        match = _TCP.match(text)
        if match is None:
            raise ValueError("{value} is not an address such as 127.0.0.1:8000, [::1]:8000 or unix:/run/app.sock")
        host = match["v6"] or match["host"]
        _check_host(host, bracketed=match["v6"] is not None)
        port = int(match["port"])
        if port > 65535:
            raise ValueError("a port is at most 65535")
        return cls("tcp", host=host, port=port)

    @classmethod
    def unix(cls, path: str) -> Address:
        """Address of a Unix socket. Raises ValueError when no socket can have this path."""
        if not path or "\0" in path:
            raise ValueError("a Unix socket needs a path, such as unix:/run/app.sock")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise ValueError(f"the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes")
        return cls("unix", path=path)

    def __str__(self) -> str:
        if self.kind == "unix":
            return UNIX_PREFIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Can only this machine reach it?"""
        if self.kind == "unix" or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def identity(self) -> tuple[str, str, int]:
        """Equal for two spellings of one address: [::1]:80 and [0:0::1]:80, A.example:80 and a.example:80."""
        if self.kind == "unix":
            return ("unix", os.path.normpath(self.path), 0)
        try:
            host = str(ipaddress.ip_address(self.host))
        except ValueError:
            host = self.host.lower()
        return ("tcp", host, self.port)


def _check_host(host: str, *, bracketed: bool) -> None:
    if bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("between [ and ] stands an IPv6 address") from None
    elif host.rpartition(".")[2].isdigit():
        # A name never ends in a number (RFC 1123 2.1): 10.0.1 is neither a name nor, here, 10.0.0.1.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("{value} holds no valid IPv4 address") from None
    elif not _HOST_NAME.match(host):
        raise ValueError("{value} holds no valid host name")
