"""Addresses: the forms that are read, given back, compared and refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.config.address import Address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", Address("tcp", host="127.0.0.1", port=80)),
        ("0.0.0.0:0", Address("tcp", host="0.0.0.0", port=0)),
        ("[::]:8443", Address("tcp", host="::", port=8443)),
        ("[fe80::1%eth0]:1", Address("tcp", host="fe80::1%eth0", port=1)),
        ("app.internal:8000", Address("tcp", host="app.internal", port=8000)),
        ("app_1:8000", Address("tcp", host="app_1", port=8000)),
        ("localhost:65535", Address("tcp", host="localhost", port=65535)),
        ("unix:/run/a.sock", Address("unix", path="/run/a.sock")),
    ],
)
def test_parse_reads_and_str_gives_back(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected
    assert str(expected) == text
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:80 ",
        "127.0.0.1:80\n",
        "127.0.0.1:٨٠",
        "300.0.0.1:80",
        "10.0.1:80",
        "1:30",
        "::1:80",
        "[::1]",
        "[127.0.0.1]:80",
        "[::g]:80",
        "a b:80",
        "a..b:80",
        "-a:80",
        "user@host:80",
        "http://a:80",
        "unix:",
        "unix:/a\0b",
        "unix:/" + "a" * 107,
        "a" * 200 + ":80",
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[::1]:80", "[0:0:0::1]:80"),
        ("A.example:80", "a.EXAMPLE:80"),
        ("unix:/run//a.sock", "unix:/run/x/../a.sock"),
    ],
)
def test_identity_is_equal_for_two_spellings(one: str, other: str) -> None:
    assert Address.parse(one).identity == Address.parse(other).identity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/a", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_loopback(text: str, expected: bool) -> None:
    assert Address.parse(text).is_loopback is expected


@given(st.text(max_size=40))
def test_parse_of_any_text_gives_it_back_or_raises_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address
