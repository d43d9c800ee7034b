"""The demo application, alone under apphost.py and as conf/demo.yaml runs it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from greenproxy.config.load import load_config
from tests.apps.hosting import HostedApp
from tests.harness.proxy import ROOT, Proxy, running_proxy

pytestmark = pytest.mark.integration

CONFIG = ROOT / "conf" / "demo.yaml"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[HostedApp]:
    with HostedApp("app:application", tmp_path, chdir=ROOT / "conf" / "demo") as running:
        yield running


def test_page_shows_the_process_and_the_headers(demo: HostedApp) -> None:
    page = demo.get("/", X_Shown="<b>&").body.decode()
    assert "Process 0 answered this page" in page
    assert f"pid {demo.process.pid}" in page
    assert "<tr><th>X-Shown</th><td>&lt;b&gt;&amp;</td></tr>" in page
    assert "{{" not in page.replace("${{", "")


def test_whoami_names_the_process(demo: HostedApp) -> None:
    assert json.loads(demo.get("/api/whoami").body) == {"index": 0, "pid": demo.process.pid}


def test_slow_answers_after_the_time_asked_for(demo: HostedApp) -> None:
    assert json.loads(demo.get("/slow?ms=5").body)["slept_ms"] == 5
    assert demo.get("/slow?ms=-5").status == 400


def test_stream_comes_in_chunks(demo: HostedApp) -> None:
    response = demo.get("/stream")
    assert response.get("transfer-encoding") == b"chunked"
    assert len(response.body.splitlines()) == 10


def test_upload_says_size_and_digest(demo: HostedApp) -> None:
    body = bytes(range(256)) * 4096
    with demo.client() as client:
        head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        said = json.loads(client.request(head + body).body)
    assert (said["bytes"], said["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/boom", 500), ("/elsewhere", 404)])
def test_status(demo: HostedApp, path: str, status: int) -> None:
    assert demo.get(path).status == status


def test_configuration_is_valid_and_only_for_this_machine() -> None:
    config = load_config(str(CONFIG))
    assert [str(listener.address) for listener in config.listeners] == ["127.0.0.1:8080"]
    assert str(config.admin.address) == "127.0.0.1:9900"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """conf/demo.yaml on free ports."""
    config = yaml.safe_load(CONFIG.read_text())
    del config["listeners"], config["admin"]
    config["upstreams"]["demo"]["wsgi"]["chdir"] = str(CONFIG.parent / "demo")
    with running_proxy(config, tmp_path) as running:
        yield running


def test_requests_are_spread_by_weight(proxy: Proxy) -> None:
    answers = [json.loads(proxy.get("/api/whoami").body) for _ in range(60)]
    assert Counter(answer["index"] for answer in answers) == {0: 30, 1: 20, 2: 10}
    assert len({answer["pid"] for answer in answers}) == 3
