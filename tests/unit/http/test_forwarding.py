"""What servers are told about clients: only trusted proxies are believed."""

from __future__ import annotations

import ipaddress

import pytest

from greenproxy.http.forwarding import Forwarding, Network, Peer, host_name, is_trusted
from tests.unit.http.fakes import parsed, request

PROXIES: tuple[Network, ...] = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
LIES = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Port: 1",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "X-Request-ID: evil",
]


def told(*lines: str, ip: str = "10.0.0.1", trusted: bool = True, host: bytes = b"shop.example") -> Forwarding:
    return Peer(ip, 1, "http", trusted).forwarding(parsed(request(*lines)), host, PROXIES)


def lines_of(forwarding: Forwarding) -> dict[str, str]:
    """The lines by name; each name must be there once."""
    pairs = [line.split(": ", 1) for line in forwarding.lines.decode("latin-1").split("\r\n")[:-1]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}  # noqa: C416 - pairs are lists


def test_untrusted_peer_is_not_believed() -> None:
    forwarding = told(*LIES, ip="192.0.2.1", trusted=False)
    assert (forwarding.client_ip, forwarding.scheme) == ("192.0.2.1", "http")
    assert (forwarding.request_id, forwarding.prefix) == (b"", b"")
    lines = lines_of(forwarding)
    assert lines["X-Forwarded-For"] == lines["X-Real-IP"] == "192.0.2.1"
    assert lines["X-Forwarded-Proto"] == "http"
    assert lines["X-Forwarded-Host"] == "shop.example"
    assert lines["Forwarded"] == 'for=192.0.2.1;host="shop.example";proto=http'
    assert lines["Via"] == "1.1 greenproxy"
    assert b"6.6.6.6" not in forwarding.lines
    assert b"evil" not in forwarding.lines
    assert "X-Forwarded-Port" not in lines


def test_trusted_peer_is_believed_and_added_to() -> None:
    forwarding = told(
        "X-Forwarded-For: 192.0.2.7",
        "X-Forwarded-Proto: HTTPS",
        "X-Forwarded-Host: www.example:8443",
        "X-Forwarded-Port: 443",
        "Forwarded: for=192.0.2.7;proto=https",
        "X-Request-ID: abc-123",
    )
    assert (forwarding.client_ip, forwarding.scheme) == ("192.0.2.7", "https")
    assert forwarding.request_id == b"abc-123"
    lines = lines_of(forwarding)
    assert lines["X-Forwarded-For"] == "192.0.2.7, 10.0.0.1"
    assert lines["X-Real-IP"] == "192.0.2.7"
    assert lines["X-Forwarded-Proto"] == "https"
    assert lines["X-Forwarded-Host"] == "www.example:8443"
    assert lines["X-Forwarded-Port"] == "443"
    assert lines["Forwarded"] == 'for=192.0.2.7;proto=https, for=10.0.0.1;host="shop.example";proto=https'


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (None, "10.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("192.0.2.7,10.0.0.2 ,\t10.0.0.3", "192.0.2.7"),
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("6.6.6.6, 192.0.2.7, fd00::5, 10.0.0.2", "192.0.2.7"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("6.6.6.6, garbage", "10.0.0.1"),
        ("6.6.6.6, garbage, 10.0.0.2", "10.0.0.2"),
        ("6.6.6.6, 192.0.2.7:1234", "10.0.0.1"),
        ("6.6.6.6, ", "10.0.0.1"),
        ("6.6.6.6, [2001:db8::1]", "10.0.0.1"),
        ("6.6.6.6, 192.0.2.007", "10.0.0.1"),
        ("\xb2.0.0.1", "10.0.0.1"),
    ],
)
def test_client_is_the_first_address_from_the_right_that_is_no_proxy(chain: str | None, client: str) -> None:
    assert told(*([] if chain is None else [f"X-Forwarded-For: {chain}"])).client_ip == client


def test_chain_on_several_lines_is_one() -> None:
    forwarding = told("X-Forwarded-For: 192.0.2.7", "x-forwarded-for: 10.0.0.2")
    assert forwarding.client_ip == "192.0.2.7"
    assert lines_of(forwarding)["X-Forwarded-For"] == "192.0.2.7, 10.0.0.2, 10.0.0.1"


def test_ipv6_is_quoted_in_forwarded_and_plain_elsewhere() -> None:
    lines = lines_of(told(ip="2001:db8::1", trusted=False))
    assert lines["X-Forwarded-For"] == "2001:db8::1"
    assert lines["Forwarded"].startswith('for="[2001:db8::1]";')


def test_client_without_a_host_names_none() -> None:
    lines = lines_of(told(trusted=False, host=b""))
    assert "X-Forwarded-Host" not in lines
    assert lines["Forwarded"] == "for=10.0.0.1;proto=http"


@pytest.mark.parametrize("proto", ["", "ftp", "https, http", "javascript", "http\xe9"])
def test_unknown_scheme_of_a_trusted_peer_is_not_taken_over(proto: str) -> None:
    forwarding = told(f"X-Forwarded-Proto: {proto}")
    assert forwarding.scheme == "http"
    assert lines_of(forwarding)["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a, b", 'a"b', "user@a"])
def test_host_of_a_trusted_peer_that_is_none_is_not_taken_over(host: str) -> None:
    assert lines_of(told(f"X-Forwarded-Host: {host}"))["X-Forwarded-Host"] == "shop.example"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc", True),
        ("0", True),
        ("a" * 128, True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("a.b_c:d/e+f=g@h-i", True),
        ("", False),
        ("a" * 129, False),
        ("-a", False),
        ("a b", False),
        ('a"b', False),
        ("a,b", False),
        ("a\tb", False),
        ("<script>", False),
        ("\xe9", False),
    ],
)
def test_request_id_is_kept_only_if_it_is_sane(given: str, kept: bool) -> None:
    assert told(f"X-Request-ID: {given}").request_id == (given.encode("latin-1") if kept else b"")


def test_two_request_ids_are_none() -> None:
    assert told("X-Request-ID: a", "X-Request-ID: b").request_id == b""


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("/shop", b"/shop"), ("/shop/", b"/shop"), ("/", b""), ("shop", b""), ('/"', b""), ("", b""), ("/a b", b"")],
)
def test_prefix_is_taken_from_a_trusted_peer_if_it_is_a_path(given: str, prefix: bytes) -> None:
    assert told(f"X-Forwarded-Prefix: {given}").prefix == prefix


def test_lines_follow_the_host_of_each_request() -> None:
    peer, head = Peer("192.0.2.1", 1, "http", False), parsed(request())
    hosts = [b"a.example", b"a.example", b"b.example", b"a.example"]
    found = [lines_of(peer.forwarding(head, host, ()))["X-Forwarded-Host"] for host in hosts]
    assert found == ["a.example", "a.example", "b.example", "a.example"]


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("fd00::1", True),
        ("fe00::1", False),
        ("::", False),
        ("unknown", False),
        ("", False),
        ("10.0.0.1:80", False),
        ("010.0.0.1", False),
    ],
)
def test_proxy_is_trusted_by_its_network(ip: str, trusted: bool) -> None:
    assert is_trusted(ip, PROXIES) is trusted
    assert is_trusted(ip, ()) is False


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"Shop.Example", "shop.example"),
        (b"shop.example:8080", "shop.example"),
        (b"shop.example.", "shop.example"),
        (b"shop.example.:80", "shop.example"),
        (b"[2001:DB8::1]:443", "[2001:db8::1]"),
        (b"[::1]", "[::1]"),
        (b"", ""),
    ],
)
def test_host_name_is_what_routes_match(authority: bytes, name: str) -> None:
    assert host_name(authority) == name
