"""The first route whose conditions all hold, as if they were tried one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.config.schema import Match, Respond, Route
from greenproxy.routing.table import RouteTable

RESPOND = Respond(status=204)


def table(*matches: Mapping[str, object]) -> RouteTable:
    return RouteTable([Route(match=Match.model_validate(match), respond=RESPOND) for match in matches])


def must_not_ask(name: object) -> None:
    raise AssertionError(f"asked for {name!r} although no route depends on it")


def found(
    routes: RouteTable,
    path: str = "/",
    host: str = "shop.example.com",
    method: str = "GET",
    header: Callable[[bytes], bytes | None] = must_not_ask,
    cookie: Callable[[str], str | None] = must_not_ask,
) -> int | None:
    return routes.match(method, host, path, header, cookie)


@pytest.mark.parametrize(
    ("prefix", "path", "matches"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a", "/a/x", True),
        ("/a", "/ab", False),
        ("/a", "/", False),
        ("/a", "/A", False),
        ("/a/", "/a/", True),
        ("/a/", "/a/x/y", True),
        ("/a/", "/a", False),
        ("/a/", "/ab/", False),
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/b/c", True),
        ("/a/b", "/a/bc", False),
        ("/a/b", "/a", False),
        ("/a/b/", "/a/b", False),
        ("/", "/", True),
        ("/", "/x/y", True),
        ("/", "*", True),
        (None, "/x", True),
        (None, "*", True),
        ("/a", "*", False),
        ("/é", "/é/x", True),
    ],
)
def test_path_matches_on_segment_boundaries(prefix: str | None, path: str, matches: bool) -> None:
    assert found(table({"path": prefix}), path) == (0 if matches else None)


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("shop.example.com", "shop.example.com", True),
        ("Shop.Example.com", "shop.example.com", True),
        ("shop.example.com", "shop.example.com.", True),
        ("shop.example.com", "a.shop.example.com", False),
        ("shop.example.com", "example.com", False),
        ("*.example.com", "shop.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "a.b.example.com.", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "shop.example.com.evil.net", False),
        ("[::1]", "[::1]", True),
        (None, "anything", True),
        (None, "", True),
        ("shop.example.com", "", False),
        ("*.example.com", "", False),
    ],
)
def test_host_matches_exactly_or_below_a_wildcard(pattern: str | None, host: str, matches: bool) -> None:
    assert found(table({"host": pattern}), host=host) == (0 if matches else None)


def test_first_match_wins_over_a_longer_prefix_and_an_exact_host() -> None:
    routes = table({"path": "/a"}, {"host": "shop.example.com", "path": "/a/b"}, {"path": "/"})
    assert found(routes, "/a/b") == 0
    assert found(routes, "/c") == 2


def test_host_and_wildcard_and_any_keep_their_order() -> None:
    routes = table(
        {"host": "*.example.com", "path": "/w"},
        {"host": "shop.example.com", "path": "/w"},
        {"host": "shop.example.com", "path": "/s"},
        {"path": "/s"},
        {"host": "*.shop.example.com", "path": "/"},
        {"host": "*.example.com", "path": "/"},
    )
    assert found(routes, "/w") == 0
    assert found(routes, "/s") == 2
    assert found(routes, "/s", host="a.shop.example.com") == 3
    assert found(routes, "/x", host="a.shop.example.com") == 4
    assert found(routes, "/x", host="a.other.example.com") == 5
    assert found(routes, "/x", host="example.net") is None


def test_methods_are_literal() -> None:
    routes = table({"methods": ["GET", "POST"]}, {"methods": ["HEAD"]})
    assert [found(routes, method=method) for method in ("GET", "POST", "HEAD", "get", "PUT")] == [0, 0, 1, None, None]


def test_header_condition_is_exact_and_asked_in_lower_case() -> None:
    routes = table({"headers": {"X-Beta": "1", "X-Group": "a b"}})
    sent = {b"x-beta": b"1", b"x-group": b"a b"}
    assert found(routes, header=sent.get) == 0
    assert found(routes, header={**sent, b"x-beta": b"10"}.get) is None
    assert found(routes, header={b"x-beta": b"1"}.get) is None


def test_cookie_condition_is_exact() -> None:
    routes = table({"cookies": {"ab": "b"}}, {})
    assert found(routes, cookie={"ab": "b"}.get) == 0
    assert found(routes, cookie={"ab": "a"}.get) == 1
    assert found(routes, cookie={}.get) == 1


def test_headers_and_cookies_are_read_only_for_routes_that_could_match() -> None:
    routes = table(
        {"path": "/a", "headers": {"X": "1"}},
        {"path": "/", "methods": ["PUT"], "cookies": {"c": "1"}},
        {"path": "/b"},
        {"path": "/", "headers": {"X": "1"}},
    )
    assert found(routes, "/b") == 2


def test_empty_table_matches_nothing() -> None:
    assert found(RouteTable([])) is None


# A reference that knows nothing of indexes, on an alphabet small enough for collisions.
HOSTS = ["a", "b.a", "c.b.a", "x.c.b.a", "b", "xb.a"]
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/a/bc", "/b", "/b/a/", "*"]

some_match = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(HOSTS + [f"*.{host}" for host in HOSTS]),
        "path": st.sampled_from([path for path in PATHS if path != "*"]),
        "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=2, unique=True),
        "headers": st.just({"X-A": "1"}),
        "cookies": st.just({"c": "1"}),
    },
)


def holds(match: dict[str, object], method: str, host: str, path: str, flagged: bool) -> bool:
    pattern, prefix = match.get("host"), str(match.get("path", "/"))
    if isinstance(pattern, str) and not (host.endswith(pattern[1:]) if pattern[0] == "*" else host == pattern):
        return False
    if prefix != "/" and not (f"{path}/".startswith(f"{prefix}/") or (prefix[-1] == "/" and path.startswith(prefix))):
        return False
    if method not in match.get("methods", [method]):  # type: ignore[operator]
        return False
    return flagged or not ({"headers", "cookies"} & match.keys())


@given(
    st.lists(some_match, max_size=8),
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from([*HOSTS, "other"]),
    st.sampled_from(PATHS),
    st.booleans(),
)
def test_match_agrees_with_trying_all_routes_in_order(
    matches: list[dict[str, object]], method: str, host: str, path: str, flagged: bool
) -> None:
    expected = next((i for i, match in enumerate(matches) if holds(match, method, host, path, flagged)), None)
    header = {b"x-a": b"1"} if flagged else {}
    cookie = {"c": "1"} if flagged else {}
    assert table(*matches).match(method, host, path, header.get, cookie.get) == expected
