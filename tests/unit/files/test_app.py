"""The answers: whole files and parts, redirects and refusals, and no open file left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from greenproxy.errors import DownstreamError
from greenproxy.files import app as app_module
from greenproxy.files.app import BLOCK, FilesApp, content_type
from greenproxy.http.exchange import KEY, Deadline, Exchange
from greenproxy.http.forwarding import Peer
from greenproxy.http.head import HeadLimits, parse_request
from greenproxy.http.target import parse_target

LIMITS = HeadLimits(max_header_bytes=65536, max_headers=100, max_request_line=16384)
OLD = 1_000_000_000  # seconds: long settled, so validators are strong


def exchange_for(method: str, target: str, fields: dict[str, str]) -> Exchange:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "example.com", **fields}.items())
    head = parse_request(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode(), LIMITS)
    assert head is not None

    def unused(*args: object) -> None:
        raise AssertionError("not for files")

    peer = Peer("192.0.2.1", 1234, "http", trusted=False)
    return Exchange(head, parse_target(head.target, method), peer, 0.0, None, cast(Deadline, None), unused, unused)


class Answer:
    def __init__(self, app: FilesApp, method: str, target: str, fields: dict[str, str]) -> None:
        self.exchange = exchange_for(method, target, fields)
        environ: dict[str, Any] = EnvironBuilder(method=method).get_environ()
        environ[KEY] = self.exchange
        body, self.status, self.headers = run_wsgi_app(app, environ)
        self.blocks = list(body)
        self.body = b"".join(self.blocks)
        body.close()  # type: ignore[attr-defined]


def ask(app: FilesApp, target: str, method: str = "GET", **fields: str) -> Answer:
    return Answer(app, method, target, {name.replace("_", "-"): value for name, value in fields.items()})


def refusal(app: FilesApp, target: str) -> DownstreamError:
    with pytest.raises(DownstreamError) as caught:
        ask(app, target)
    return caught.value


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (OLD, OLD))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    write(root / "index.html", b"<h1>home</h1>")
    write(root / "a.txt", b"0123456789")
    write(root / "docs" / "index.html", b"docs")
    write(root / "empty" / "other.html", b"other")
    write(root / "big.bin", bytes(range(256)) * 1000)
    write(root / "nothing.css", b"")
    return root


@pytest.fixture
def app(root: Path) -> FilesApp:
    return FilesApp(str(root))


@pytest.fixture(autouse=True)
def no_file_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def test_file_with_its_fields(app: FilesApp) -> None:
    answer = ask(app, "/a.txt?v=1")
    assert (answer.status, answer.body) == ("200 OK", b"0123456789")
    assert dict(answer.headers) == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "10",
        "Accept-Ranges": "bytes",
        "ETag": '"de0b6b3a7640000-a"',
        "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT",
    }


def test_file_changed_just_now_has_a_weak_tag(app: FilesApp, root: Path) -> None:
    (root / "a.txt").write_bytes(b"new")
    assert ask(app, "/a.txt").headers["ETag"].startswith('W/"')


def test_large_file_comes_in_blocks(app: FilesApp, root: Path) -> None:
    answer = ask(app, "/big.bin")
    assert answer.body == (root / "big.bin").read_bytes()
    assert [len(block) for block in answer.blocks] == [BLOCK] * 3 + [256_000 - 3 * BLOCK]


def test_empty_file(app: FilesApp) -> None:
    answer = ask(app, "/nothing.css")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == ("200 OK", "0", b"")


def test_head_has_the_fields_of_get_and_no_body(app: FilesApp) -> None:
    answer = ask(app, "/a.txt", "HEAD", Range="bytes=0-1")
    assert (answer.status, answer.body) == ("200 OK", b"")
    assert dict(answer.headers) == dict(ask(app, "/a.txt").headers)


def test_not_modified_has_validators_and_nothing_of_the_content(app: FilesApp) -> None:
    answer = ask(app, "/a.txt", If_None_Match='"de0b6b3a7640000-a"')
    assert (answer.status, answer.body) == ("304 Not Modified", b"")
    assert answer.headers["ETag"] == '"de0b6b3a7640000-a"'
    assert "Content-Type" not in answer.headers and "Content-Length" not in answer.headers


def test_part(app: FilesApp) -> None:
    answer = ask(app, "/a.txt", Range="bytes=2-4", If_Range='"de0b6b3a7640000-a"')
    assert (answer.status, answer.body) == ("206 Partial Content", b"234")
    assert (answer.headers["Content-Range"], answer.headers["Content-Length"]) == ("bytes 2-4/10", "3")


def test_part_over_several_blocks(app: FilesApp, root: Path) -> None:
    answer = ask(app, "/big.bin", Range="bytes=100-200000")
    assert answer.body == (root / "big.bin").read_bytes()[100:200_001]


def test_part_beyond_the_end(app: FilesApp) -> None:
    answer = ask(app, "/a.txt", Range="bytes=10-")
    assert (answer.status[:3], answer.headers["Content-Range"]) == ("416", "bytes */10")
    assert answer.exchange.reason == "range_not_satisfiable"


def test_failed_precondition(app: FilesApp) -> None:
    answer = ask(app, "/a.txt", If_Match='"x"')
    assert (answer.status, answer.exchange.reason) == ("412 Precondition Failed", "precondition_failed")


@pytest.mark.parametrize("target", ["/", "/index.html"])
def test_index_stands_for_its_folder(app: FilesApp, target: str) -> None:
    answer = ask(app, target)
    assert (answer.body, answer.headers["Content-Type"]) == (b"<h1>home</h1>", "text/html; charset=utf-8")


def test_index_has_the_configured_name(root: Path) -> None:
    assert ask(FilesApp(str(root), index="other.html"), "/empty/").body == b"other"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/docs", "/docs/"),
        ("/docs?a=1&b=%2F", "/docs/?a=1&b=%2F"),
        ("/%64ocs", "/%64ocs/"),
        ("//docs", "/docs/"),
        ("//docs?x", "/docs/?x"),
    ],
)
def test_folder_without_slash_is_redirected_on_this_host(app: FilesApp, target: str, location: str) -> None:
    answer = ask(app, target)
    assert (answer.status, answer.headers["Location"]) == ("301 Moved Permanently", location)


def test_redirect_never_begins_with_what_a_browser_takes_for_a_host(app: FilesApp, root: Path) -> None:
    (root / "\\evil.com").mkdir()
    assert ask(app, "/\\evil.com").headers["Location"] == "/%5Cevil.com/"


def test_prefix_is_stripped_for_the_file_and_kept_in_the_redirect(root: Path) -> None:
    for strip in ("/static", "/static/"):
        app = FilesApp(str(root), strip=strip)
        assert ask(app, "/static/a.txt").body == b"0123456789"
        assert ask(app, "/static/").body == b"<h1>home</h1>"
        assert ask(app, "/static/docs?x=1").headers["Location"] == "/static/docs/?x=1"
    assert ask(FilesApp(str(root), strip="/static"), "/static").headers["Location"] == "/static/"


@pytest.mark.parametrize("target", ["/missing", "/a.txt/", "/empty/", "/.env", "/docs/%2Ehidden"])
def test_what_is_not_there_or_not_to_be_seen_is_404(app: FilesApp, root: Path, target: str) -> None:
    write(root / ".env", b"secret")
    write(root / "docs" / ".hidden", b"secret")
    error = refusal(app, target)
    assert (error.status, error.reason) == (404, "file_not_found")
    assert str(root) not in str(error)


def test_file_that_may_not_be_read_is_403_without_its_place(
    app: FilesApp, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: object, path: str) -> None:
        raise PermissionError(13, "Permission denied", str(root / "a.txt"))

    monkeypatch.setattr(app_module.Tree, "find", deny)
    error = refusal(app, "/a.txt")
    assert (error.status, error.reason) == (403, "file_forbidden")
    assert str(root) not in str(error) and error.__cause__ is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PATCH"])
def test_other_methods_are_refused_with_what_is_allowed(app: FilesApp, method: str) -> None:
    answer = ask(app, "/a.txt", method)
    assert (answer.status, answer.headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")
    assert answer.exchange.reason == "method_not_allowed"


def test_growing_file_gives_no_byte_beyond_its_length(app: FilesApp, root: Path) -> None:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", KEY: exchange_for("GET", "/a.txt", {})}
    body, _, headers = run_wsgi_app(app, environ)
    with (root / "a.txt").open("ab") as file:
        file.write(b"more")
    assert b"".join(body) == b"0123456789" and headers["Content-Length"] == "10"
    body.close()  # type: ignore[attr-defined]


def test_shrinking_file_ends_early_and_does_not_hang(app: FilesApp, root: Path) -> None:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", KEY: exchange_for("GET", "/big.bin", {})}
    body, _, _ = run_wsgi_app(app, environ)
    os.truncate(root / "big.bin", BLOCK + 10)
    assert len(b"".join(body)) == BLOCK + 10
    body.close()  # type: ignore[attr-defined]


def test_client_gone_before_the_first_block_closes_the_file(app: FilesApp) -> None:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", KEY: exchange_for("GET", "/big.bin", {})}
    body = app(environ, lambda status, headers, exc_info=None: lambda data: None)
    body.close()  # type: ignore[attr-defined]
    body.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.CSS", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.tar.gz", "application/gzip"),
        ("a.html.br", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("README", "application/octet-stream"),
    ],
)
def test_content_type(name: str, kind: str) -> None:
    assert content_type(name) == kind
