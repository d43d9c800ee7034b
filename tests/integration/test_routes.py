"""Routes of a real proxy: which one takes a request, and what it does to it on both ways."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.harness.message import Request, Response
from tests.harness.origin import Connection, RecordingOrigin, reply
from tests.harness.proxy import Proxy, running_proxy

pytestmark = pytest.mark.integration

OLD = 1_000_000_000  # a time stamp long settled, so that entity tags are strong
ETAG = b'"de0b6b3a7640000-a"'


class NamedOrigin(RecordingOrigin):
    """Says its name, and the header fields that routes take away."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def reply(self, connection: Connection, request: Request) -> bytes:
        name, status = self.name.encode(), b"503 Service Unavailable" if request.target == b"/broken" else b"200 OK"
        fields = ((b"X-Name", name), (b"Server", b"secret/1.0"), (b"X-Keep", b"kept"))
        return reply(name, *fields, status=status, head=request.method == b"HEAD")


@dataclass
class House:
    proxy: Proxy
    origins: dict[str, NamedOrigin]

    def upstream_of(self, target: str, method: str = "GET", **headers: str) -> str:
        """Name of the origin that answered, or the status if none did."""
        response = self.ask(target, method, **headers)
        name = response.get("x-name")
        return name.decode() if name else str(response.status)

    def ask(self, target: str, method: str = "GET", **headers: str) -> Response:
        return self.proxy.request(method, target, {name.replace("_", "-"): value for name, value in headers.items()})

    def seen(self, name: str, target: str, **headers: str) -> Request:
        """The request as the origin got it."""
        before = len(self.origins[name].requests)
        assert self.upstream_of(target, **headers) == name
        return self.origins[name].wait_requests(before + 1)[-1]


ROUTES = [
    {"match": {"host": "www.example.com", "path": "/"}, "upstream": "exact"},
    {"match": {"host": "*.example.com", "path": "/"}, "upstream": "wildcard"},
    {"match": {"path": "/only", "methods": ["PUT", "POST"]}, "upstream": "writers"},
    {"match": {"path": "/beta", "headers": {"X-Beta": "1"}}, "upstream": "beta"},
    {"match": {"path": "/beta", "cookies": {"ab": "b"}}, "upstream": "cookie"},
    {"match": {"path": "/first/"}, "upstream": "exact"},
    {"match": {"path": "/first/longer"}, "upstream": "beta"},
    {"match": {"path": "/strip"}, "upstream": "exact", "strip_prefix": True},
    {
        "match": {"path": "/edit"},
        "upstream": "exact",
        "headers": {
            "request": {"set": {"X-A": "b", "X-Old": "new"}, "remove": ["X-C"]},
            "response": {"set": {"X-Added": "yes", "X-Keep": "replaced"}, "remove": ["Server"]},
        },
    },
    {"match": {"path": "/moved"}, "respond": {"status": 301, "location": "https://example.net/"}},
    {"match": {"path": "/teapot"}, "respond": {"status": 418, "body": "short and stout"}},
    {"match": {"path": "/split"}, "split": {"exact": 1, "beta": 1}},
    {"match": {"path": "/shares"}, "upstream": "weighted"},
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("routes")
    site = folder / "site"
    (site / "docs").mkdir(parents=True)
    (folder / "down.html").write_text("<h1>back soon</h1>")
    (folder / "secret.txt").write_text("secret")
    for path, text in {"a.txt": "0123456789", "docs/index.html": "docs", ".env": "secret"}.items():
        (site / path).write_text(text)
        os.utime(site / path, (OLD, OLD))
    (site / "out").symlink_to(folder / "secret.txt")
    names = ["exact", "wildcard", "writers", "beta", "cookie", "three", "two", "one"]
    with ExitStack() as stack:
        origins = {name: stack.enter_context(NamedOrigin(name)) for name in names}
        upstreams: dict[str, object] = {name: {"servers": [{"address": origins[name].address}]} for name in names[:5]}
        weights = {"three": 3, "two": 2, "one": 1}
        upstreams["weighted"] = {
            "balance": "weighted_round_robin",
            "servers": [{"address": origins[name].address, "weight": weight} for name, weight in weights.items()],
        }
        upstreams["dead"] = {"servers": [{"address": f"unix:{folder}/nobody-listens.sock"}]}
        routes = [
            *ROUTES,
            {"match": {"path": "/files"}, "files": {"root": str(site)}, "strip_prefix": True},
            {"match": {"path": "/dead"}, "upstream": "dead", "error_pages": {"502": str(folder / "down.html")}},
            {"match": {"path": "/broken"}, "upstream": "exact", "error_pages": {"5xx": str(folder / "down.html")}},
        ]
        config = {"server": {"workers": 2, "graceful_timeout": "5s"}, "upstreams": upstreams, "routes": routes}
        proxy = stack.enter_context(running_proxy(config, folder))
        yield House(proxy, origins)


def test_host_decides_before_wildcard_and_without_case_or_port(house: House) -> None:
    assert house.upstream_of("/", Host="www.example.com") == "exact"
    assert house.upstream_of("/", Host="WWW.Example.COM:8080") == "exact"
    assert house.upstream_of("/", Host="www.example.com.") == "exact"
    assert house.upstream_of("/", Host="a.b.example.com") == "wildcard"
    assert house.upstream_of("/", Host="example.com") == "404"


def test_host_of_an_absolute_target_decides(house: House) -> None:
    assert house.upstream_of("http://www.example.com/x", Host="a.example.com") == "exact"


def test_path_matches_on_segment_boundaries_and_first_route_wins(house: House) -> None:
    assert house.upstream_of("/first/longer/x") == "exact"
    assert house.upstream_of("/first") == "404"
    assert house.upstream_of("/strip/x") == "exact"
    assert house.upstream_of("/stripped") == "404"


@pytest.mark.parametrize("target", ["/%66irst/x", "/x/../first/", "/first/%2e/x", "//first//x"])
def test_path_is_matched_in_its_normal_form(house: House, target: str) -> None:
    assert house.upstream_of(target) == "exact"


def test_method_header_and_cookie_decide(house: House) -> None:
    assert house.upstream_of("/only", "PUT") == "writers"
    assert house.upstream_of("/only") == "404"
    assert house.upstream_of("/beta", X_Beta="1") == "beta"
    assert house.upstream_of("/beta", X_Beta="2", Cookie="x=1; ab=b") == "cookie"
    assert house.upstream_of("/beta", Cookie="ab=bb") == "404"


def test_stripped_prefix_is_named_to_the_server(house: House) -> None:
    request = house.seen("exact", "/strip/a/b%20c?q=1")
    assert (request.target, request.get("x-forwarded-prefix")) == (b"/a/b%20c?q=1", b"/strip")
    assert house.seen("exact", "/strip").target == b"/"


def test_request_and_response_headers_are_edited(house: House) -> None:
    request = house.seen("exact", "/edit", X_C="1", X_Old="old", X_Other="same")
    assert (request.get("x-a"), request.get("x-old"), request.get("x-other")) == (b"b", b"new", b"same")
    assert request.get("x-c") is None
    response = house.ask("/edit")
    assert (response.get("x-added"), response.get("x-keep"), response.get("server")) == (b"yes", b"replaced", None)


def test_respond_answers_without_a_server(house: House) -> None:
    moved = house.ask("/moved")
    assert (moved.status, moved.get("location")) == (301, b"https://example.net/")
    teapot = house.ask("/teapot")
    assert (teapot.status, teapot.body) == (418, b"short and stout")
    head = house.ask("/teapot", "HEAD")
    assert (head.status, head.body) == (418, b"")


def test_split_keeps_a_client_where_it_is(house: House) -> None:
    answers = [house.ask("/split") for _ in range(40)]
    first_choices = Counter(response.get("x-name") for response in answers)
    assert set(first_choices) == {b"exact", b"beta"}  # by chance once in 5 * 10^11 runs not
    for response in answers[:10]:
        name, cookie = response.get("x-name"), response.get("set-cookie")
        assert name is not None and cookie == b"gp_split=%s; Path=/; HttpOnly; SameSite=Lax" % name
        again = house.ask("/split", Cookie=f"a=b; gp_split={name.decode()}")
        assert (again.get("x-name"), again.get("set-cookie")) == (name, None)


def test_split_chooses_anew_for_an_unknown_cookie(house: House) -> None:
    response = house.ask("/split", Cookie="gp_split=dead")
    assert response.get("x-name") in (b"exact", b"beta")
    assert response.get("set-cookie") is not None


def test_weights_are_exact_over_two_workers(house: House) -> None:
    names = [house.upstream_of("/shares") for _ in range(60)]
    assert Counter(names) == {"three": 30, "two": 20, "one": 10}
    assert sorted(Counter(names[:6]).values()) == [1, 2, 3]


def test_error_page_stands_for_our_own_error_only(house: House) -> None:
    dead = house.ask("/dead")
    assert (dead.status, dead.body, dead.get("content-type")) == (
        502,
        b"<h1>back soon</h1>",
        b"text/html; charset=utf-8",
    )
    broken = house.ask("/broken")
    assert (broken.status, broken.body) == (503, b"exact"), "an answer of a server goes through as it is"


def test_request_without_a_route_is_404_and_logged(house: House) -> None:
    assert house.ask("/nowhere?at=all").status == 404
    record = house.proxy.wait_access(lambda record: record.get("path") == "/nowhere")
    assert (record["status"], record["reason"]) == (404, "no_route")


def test_file_with_type_tag_and_part(house: House) -> None:
    whole = house.ask("/files/a.txt")
    assert (whole.status, whole.body, whole.get("etag")) == (200, b"0123456789", ETAG)
    assert whole.get("content-type") == b"text/plain; charset=utf-8"
    assert house.ask("/files/a.txt", If_None_Match=ETAG.decode()).status == 304
    part = house.ask("/files/a.txt", Range="bytes=2-4")
    assert (part.status, part.body, part.get("content-range")) == (206, b"234", b"bytes 2-4/10")
    beyond = house.ask("/files/a.txt", Range="bytes=10-")
    assert (beyond.status, beyond.get("content-range")) == (416, b"bytes */10")


def test_head_of_a_file_has_its_length_and_no_body(house: House) -> None:
    head = house.ask("/files/a.txt", "HEAD")
    assert (head.status, head.body, head.get("content-length")) == (200, b"", b"10")


def test_folder_is_redirected_with_its_query_and_served_by_its_index(house: House) -> None:
    redirect = house.ask("/files/docs?x=%2F&y")
    assert (redirect.status, redirect.get("location")) == (301, b"/files/docs/?x=%2F&y")
    assert house.ask("/files/docs/").body == b"docs"


@pytest.mark.parametrize(
    "target",
    [
        "/files/missing",
        "/files/.env",
        "/files/%2eenv",
        "/files/out",
        "/files/../secret.txt",
        "/files/%2e%2e/secret.txt",
        "/files/..%2fsecret.txt",
        "/files/docs/..%5c..%5csecret.txt",
        "/files/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
        "/files//etc/passwd",
        "/files/%2Fetc/passwd",
        "/files/a.txt%00",
        "/files/a.txt%00.html",
    ],
)
def test_nothing_outside_the_root_is_served_and_no_place_is_named(house: House, target: str) -> None:
    response = house.ask(target)
    assert response.status in (400, 404)
    assert b"secret" not in response.body and b"root:" not in response.body
    assert os.fsencode(house.proxy.folder) not in response.raw


def test_files_refuse_other_methods_with_what_is_allowed(house: House) -> None:
    response = house.ask("/files/a.txt", "DELETE")
    assert (response.status, response.get("allow")) == (405, b"GET, HEAD")
