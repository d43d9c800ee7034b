"""Request targets: what is matched is what is sent, and no path climbs."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenproxy.errors import BadRequest
from greenproxy.http.target import Target, parse_target, strip_prefix


@pytest.mark.parametrize(
    ("target", "raw_path", "query", "path"),
    [
        (b"/", b"/", b"", "/"),
        (b"/a/b", b"/a/b", b"", "/a/b"),
        (b"/a?", b"/a", b"?", "/a"),
        (b"/a?b=c&d", b"/a", b"?b=c&d", "/a"),
        (b"/a?/../b?c", b"/a", b"?/../b?c", "/a"),
        (b"/a?%zz", b"/a", b"?%zz", "/a"),
        (b"/a%20b", b"/a%20b", b"", "/a b"),
        (b"/%C3%A9", b"/%C3%A9", b"", "/\xe9"),
        (b"/%E9", b"/%E9", b"", "/\udce9"),
        (b"/a%2Fb", b"/a%2Fb", b"", "/a/b"),
        (b"/a%3Fb", b"/a%3Fb", b"", "/a?b"),
        (b"/%252e%252e/a", b"/%252e%252e/a", b"", "/%2e%2e/a"),
        (b"//a", b"//a", b"", "/a"),
        (b"/a//b///c", b"/a//b///c", b"", "/a/b/c"),
        (b"/a%2F/b", b"/a%2F/b", b"", "/a/b"),
        (b"/a;b=c", b"/a;b=c", b"", "/a;b=c"),
        (b"/.a/..b/c./d../...", b"/.a/..b/c./d../...", b"", "/.a/..b/c./d../..."),
        (b"/a\\b", b"/a\\b", b"", "/a\\b"),
        (b'/"<>|^`{}', b'/"<>|^`{}', b"", '/"<>|^`{}'),
    ],
)
def test_path_is_sent_as_it_came_and_matched_decoded(target: bytes, raw_path: bytes, query: bytes, path: str) -> None:
    assert parse_target(target, "GET") == Target(raw_path, query, path)


@pytest.mark.parametrize(
    ("target", "sent", "path"),
    [
        (b"/.", b"/", "/"),
        (b"/./", b"/", "/"),
        (b"/a/.", b"/a/", "/a/"),
        (b"/a/..", b"/", "/"),
        (b"/a/../", b"/", "/"),
        (b"/a/./b", b"/a/b", "/a/b"),
        (b"/a/../b", b"/b", "/b"),
        (b"/a/b/../../c", b"/c", "/c"),
        (b"/a/%2e%2e/b", b"/b", "/b"),
        (b"/a/.%2E/b", b"/b", "/b"),
        (b"/a/%2e/b%20c", b"/a/b%20c", "/a/b c"),
        (b"/a//../b", b"/a/b", "/a/b"),
        (b"/a/b/..?x=..", b"/a/", "/a/"),
    ],
)
def test_dot_segments_are_resolved_for_both(target: bytes, sent: bytes, path: str) -> None:
    found = parse_target(target, "GET")
    assert (found.raw_path, found.path) == (sent, path)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/..", "target_dots"),
        (b"/../a", "target_dots"),
        (b"/a/../../b", "target_dots"),
        (b"/%2e%2e/a", "target_dots"),
        (b"/a/..%2fb", "target_dots"),
        (b"/a%2f../b", "target_dots"),
        (b"/a%2f%2e%2e%2fb", "target_dots"),
        (b"/a/..%5cb", "target_dots"),
        (b"/a\\..\\b", "target_dots"),
        (b"/a%5c..", "target_dots"),
        (b"/a/.%2fb", "target_dots"),
        (b"/%", "target_escape"),
        (b"/%4", "target_escape"),
        (b"/%4g", "target_escape"),
        (b"/%u0041", "target_escape"),
        (b"/a%00b", "target_nul"),
        (b"/a#b", "target_fragment"),
        (b"/a?b#c", "target_fragment"),
        (b"a", "target_invalid"),
        (b"?a", "target_invalid"),
        (b"*", "target_invalid"),
        (b"*/", "target_invalid"),
        (b"a.example:443", "target_invalid"),
        (b"ftp://a.example/", "target_invalid"),
        (b"http:/a", "target_invalid"),
        (b"http:///a", "target_invalid"),
        (b"http://", "target_invalid"),
        (b"http://user@a.example/", "target_invalid"),
        (b"http://user:pw@a.example/", "target_invalid"),
        (b"http://a.example:99999/", "target_invalid"),
        (b"http://a.example/x#y", "target_invalid"),
        (b"http://a.example/../x", "target_dots"),
        (b"javascript:alert(1)", "target_invalid"),
    ],
)
def test_target_that_hides_something_is_refused(target: bytes, reason: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_target(target, "GET")
    assert (caught.value.status, caught.value.reason) == (400, reason)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (b"http://a.example", Target(b"/", b"", "/", b"a.example")),
        (b"http://a.example/x?y", Target(b"/x", b"?y", "/x", b"a.example")),
        (b"HTTPS://A.example:8443/x", Target(b"/x", b"", "/x", b"A.example:8443")),
        (b"http://[::1]:80?y", Target(b"/", b"?y", "/", b"[::1]:80")),
        (b"http://a.example/b/../c", Target(b"/c", b"", "/c", b"a.example")),
    ],
)
def test_absolute_target_names_its_host(target: bytes, found: Target) -> None:
    assert parse_target(target, "GET") == found


def test_asterisk_is_for_options() -> None:
    assert parse_target(b"*", "OPTIONS") == Target(b"*", b"", "*")


_PIECES = [
    "/",
    "/",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%5c",
    "\\",
    "a",
    "b",
    "%61",
    "%25",
    "%C3%A9",
    "%ff",
    "//",
    ";",
    "?",
    "%3f",
]
targets = st.lists(st.sampled_from(_PIECES), max_size=10).map(lambda pieces: ("/" + "".join(pieces)).encode())
_CLIMBS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|$)")


def taken(target: bytes) -> Target | None:
    try:
        return parse_target(target, "GET")
    except BadRequest:
        return None


@given(targets)
def test_no_path_that_is_taken_climbs(target: bytes) -> None:
    found = taken(target)
    if found is not None:
        assert not _CLIMBS.search(found.path)
        assert not _CLIMBS.search(unquote_to_bytes(found.raw_path).decode("latin-1"))


@given(targets)
def test_what_is_sent_is_what_is_matched(target: bytes) -> None:
    """A server that reads the sent target as we do, comes to the same."""
    found = taken(target)
    if found is not None:
        assert parse_target(found.raw_path + found.query, "GET") == found
        sent = unquote_to_bytes(found.raw_path).decode("utf-8", "surrogateescape")
        assert re.sub("/{2,}", "/", sent) == found.path


@given(st.binary(max_size=30).map(lambda junk: bytes(byte for byte in junk if 0x21 <= byte <= 0x7E)))
def test_no_visible_bytes_raise_anything_but_a_refusal(junk: bytes) -> None:
    taken(junk)
    taken(b"/" + junk)


# Taking a prefix off


@pytest.mark.parametrize(
    ("target", "prefix", "sent"),
    [
        (b"/a", "/a", b"/"),
        (b"/a/", "/a", b"/"),
        (b"/a/b", "/a", b"/b"),
        (b"/a/b", "/a/", b"/b"),
        (b"/a/b/c", "/a/b", b"/c"),
        (b"/a/b", "/", b"/a/b"),
        (b"/a/a/b", "/a", b"/a/b"),
        (b"/a/%2Fb%20c", "/a", b"/%2Fb%20c"),
        (b"/%61/b%20c", "/a", b"/b%20c"),
        (b"/%61", "/a", b"/"),
        (b"/a%2Fb", "/a", b"/b"),
        (b"//a/b", "/a", b"/b"),
        (b"/%C3%A9/b", "/\xe9", b"/b"),
        (b"/%61/%FF%3F%23%25", "/a", b"/%FF%3F%23%25"),
    ],
)
def test_prefix_is_taken_off(target: bytes, prefix: str, sent: bytes) -> None:
    found = parse_target(target, "GET")
    assert strip_prefix(found.raw_path, found.path, prefix) == sent


@given(targets)
@example(b"/%61/..b")
@example(b"/a/b")
def test_stripped_path_is_the_matched_path_less_its_prefix(target: bytes) -> None:
    found = taken(b"/a" + target)
    if found is None or not found.path.startswith("/a/"):
        return
    stripped = strip_prefix(found.raw_path, found.path, "/a")
    assert stripped.startswith(b"/")
    assert parse_target(stripped, "GET").path == found.path[2:]
