"""Shops in Flask and Django, as their owners left them: alone under apphost.py, and behind the whole proxy.

Every test runs both ways. The shops are mounted under /flask and /django, and the outer world is HTTPS,
as a TLS terminator in front says: links and redirects must be right for the visitor, not for the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.apps.hosting import APPS, HostedApp
from tests.apps.visitor import Visitor, parsed
from tests.harness.client import Address
from tests.harness.proxy import running_proxy

pytestmark = pytest.mark.integration

SHOPS = {"flask": "flask_shop:app", "django": "django_shop:application"}
PHOTO = bytes(range(256)) * 12_000  # 3 MB: more than any buffer on the way


@pytest.fixture(scope="module", params=["alone", "proxied"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Address]]:
    """Run both shops one way, and give each one's address."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "proxied":
        with running_proxy(both_shops(), folder) as proxy:
            yield dict.fromkeys(SHOPS, proxy.address)
        return
    (folder / "flask").mkdir()
    (folder / "django").mkdir()
    with HostedApp(SHOPS["flask"], folder / "flask") as flask, HostedApp(SHOPS["django"], folder / "django") as django:
        yield {"flask": flask.path, "django": django.path}


def both_shops() -> dict[str, object]:
    return {
        "server": {"workers": 2, "graceful_timeout": "5s", "trusted_proxies": ["127.0.0.0/8"]},
        "upstreams": {
            name: {"wsgi": {"app": app, "chdir": str(APPS), "processes": 2, "threads": 4}}
            for name, app in SHOPS.items()
        },
        "routes": [
            {"match": {"path": f"/{name}/"}, "upstream": name, "strip_prefix": True} for name in SHOPS
        ],
    }  # fmt: skip


def visitor_of(name: str, way: dict[str, Address]) -> Visitor:
    address = way[name]
    if isinstance(address, str):  # the Unix socket: say what the proxy would say
        told = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": f"/{name}"}
        return Visitor(address, "", told)
    return Visitor(address, f"/{name}", {"X-Forwarded-Proto": "https"})


@pytest.fixture
def flask(way: dict[str, Address]) -> Iterator[Visitor]:
    visitor = visitor_of("flask", way)
    yield visitor
    visitor.close()


@pytest.fixture
def django(way: dict[str, Address]) -> Iterator[Visitor]:
    visitor = visitor_of("django", way)
    yield visitor
    visitor.close()


# Flask


def test_flask_sees_the_address_of_the_outer_world(flask: Visitor) -> None:
    assert flask.get_json("/where?a=b") == {
        "url": "https://shop.example.com/flask/where?a=b",
        "root": "https://shop.example.com/flask/",
        "client": "127.0.0.1",
        "link": "/flask/basket",
    }


def test_flask_redirects_within_the_outer_world(flask: Visitor) -> None:
    response = flask.get("/go")
    assert (response.status, response.get("location")) == (302, b"https://shop.example.com/flask/")


def test_flask_keeps_a_session(flask: Visitor) -> None:
    response = flask.post("/basket", item="apple", count="2")
    assert (response.status, response.get("location")) == (302, b"/flask/basket")
    flask.post("/basket", item="pear")
    basket = flask.get_json("/basket")
    assert (basket["items"], basket["total"]) == ({"apple": 2, "pear": 1}, 105)
    assert basket["messages"] == ["apple added – danke", "pear added – danke"]
    assert flask.get_json("/basket")["messages"] == []


def test_flask_refuses_a_wrong_form(flask: Visitor) -> None:
    assert flask.post("/basket", item="coal").status == 404
    assert flask.post("/basket", thing="apple").status == 400


def test_flask_takes_an_upload(flask: Visitor) -> None:
    assert flask.upload("/photos", "photo", "Bild für Ä.jpg", PHOTO, title="Äpfel") == {
        "name": "Bild für Ä.jpg",
        "bytes": len(PHOTO),
        "sha256": hashlib.sha256(PHOTO).hexdigest(),
        "title": "Äpfel",
    }


def test_flask_takes_a_chunked_body(flask: Visitor) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PHOTO[:7], PHOTO[7:])) + b"0\r\n\r\n"
    response = flask.request("PUT", "/raw", chunks, Transfer_Encoding="chunked")
    assert parsed(response) == {"bytes": len(PHOTO), "sha256": hashlib.sha256(PHOTO).hexdigest()}


def test_flask_streams(flask: Visitor) -> None:
    response = flask.get("/report.csv")
    assert response.body.endswith(b"999,998001\n")
    assert response.body.count(b"\n") == 1000


def test_flask_sends_a_file_with_a_name(flask: Visitor) -> None:
    response = flask.get("/invoice")
    assert len(response.body) == 50_005
    assert b"filename*=UTF-8''Rechnung%20f%C3%BCr%20%C3%84.pdf" in (response.get("content-disposition") or b"")


def test_flask_serves_static_files(flask: Visitor) -> None:
    response = flask.get("/static/shop.css")
    assert (response.status, response.body) == (200, (APPS / "static" / "shop.css").read_bytes())
    etag = response.get("etag")
    assert etag is not None
    again = flask.request("GET", "/static/shop.css", If_None_Match=etag.decode())
    assert (again.status, again.body) == (304, b"")
    assert flask.request("GET", "/static/shop.css", Range="bytes=0-3").body == b"body"


def test_flask_answers_head(flask: Visitor) -> None:
    assert flask.request("HEAD", "/").get("content-length") == b"10"
    assert flask.get("/").body == b"Flask shop"


@pytest.mark.parametrize(
    ("path", "name"), [("/page/%C3%84pfel", "Äpfel"), ("/page/a%20b", "a b"), ("/page/a%3Fb", "a?b")]
)
def test_flask_reads_an_encoded_path(flask: Visitor, path: str, name: str) -> None:
    assert flask.get(path).body.decode() == name


def test_flask_failure_is_500_and_no_more(flask: Visitor) -> None:
    response = flask.get("/broken")
    assert response.status == 500
    assert b"the shop is broken" not in response.body
    assert flask.get("/").status == 200


# Django


def test_django_sees_the_address_of_the_outer_world(django: Visitor) -> None:
    assert django.get_json("/where/?a=b") == {
        "url": "https://shop.example.com/django/where/?a=b",
        "secure": True,
        "client": "127.0.0.1",
        "link": "/django/order/",
    }


def test_django_appends_its_slash(django: Visitor) -> None:
    response = django.get("/where")
    assert (response.status, response.get("location")) == (301, b"/django/where/")


def test_django_form_needs_its_token_and_fills_the_session(django: Visitor) -> None:
    assert django.post("/order/", item="apple", count="2").status == 403
    token = django.get_json("/order/")["token"]
    response = django.post("/order/", item="apple", count="2", csrfmiddlewaretoken=token)
    assert (response.status, response.get("location")) == (302, b"/django/order/")
    assert django.post("/order/", item="apple", count="99", csrfmiddlewaretoken=token).status == 422
    assert django.get_json("/order/")["basket"] == {"apple": 2}


def test_django_takes_an_upload(django: Visitor) -> None:
    assert django.upload("/photos/", "photo", "Ä.jpg", PHOTO) == {
        "name": "Ä.jpg",
        "bytes": len(PHOTO),
        "sha256": hashlib.sha256(PHOTO).hexdigest(),
    }


def test_django_streams(django: Visitor) -> None:
    assert django.get("/report.csv").body.count(b"\n") == 1000


def test_django_sends_a_file_of_the_disk(django: Visitor) -> None:
    response = django.get("/source")
    assert response.body == (APPS / "django_shop.py").read_bytes()
    assert response.get("content-length") == str(len(response.body)).encode()


def test_django_refuses_a_foreign_host(django: Visitor) -> None:
    assert django.request("GET", "/", Host="evil.example.com").status == 400


def test_django_failure_is_500_and_no_more(django: Visitor) -> None:
    response = django.get("/broken")
    assert response.status == 500
    assert b"the shop is broken" not in response.body
