"""The servers that hosted applications get."""

from __future__ import annotations

import sys

import pytest

from greenproxy.config.hosted import with_hosted_servers
from greenproxy.config.load import parse_config
from greenproxy.errors import ConfigError

TEXT = """
listeners: [{address: 127.0.0.1:0}]
upstreams:
  plain: {servers: [{address: 127.0.0.1:1}]}
  even: {wsgi: {app: "shop:application"}}
  odd: {wsgi: {app: "shop:application", processes: 3, weights: [3, 2, 1]}}
routes: [{upstream: odd}]
"""


def test_hosted_upstreams_get_one_socket_a_process() -> None:
    before = parse_config(TEXT, "/etc/x.yaml", {})
    after = with_hosted_servers(before, "/run/gp")
    assert [(str(s.address), s.weight) for s in after.upstreams["odd"].servers] == [
        ("unix:/run/gp/odd-0.sock", 3),
        ("unix:/run/gp/odd-1.sock", 2),
        ("unix:/run/gp/odd-2.sock", 1),
    ]
    assert [s.weight for s in after.upstreams["even"].servers] == [1, 1]
    assert after.upstreams["plain"] == before.upstreams["plain"]
    assert before.upstreams["odd"].servers == ()
    server = after.upstreams["odd"].servers[0]
    assert (server.max_connections, server.resolve, server.backup) == (None, False, False)


def test_hosted_application_has_its_defaults() -> None:
    upstream = parse_config(TEXT, "/etc/x.yaml", {}).upstreams["even"]
    assert upstream.wsgi is not None
    assert (upstream.wsgi.python, upstream.wsgi.chdir, upstream.wsgi.threads) == (sys.executable, "/etc", 8)
    assert upstream.health_check is not None
    assert (upstream.health_check.path, upstream.health_check.interval) == (None, 1.0)
    assert (upstream.buffer.request, upstream.buffer.response) == (1 << 20, 1 << 20)


def test_defaults_of_a_hosted_application_can_be_switched_off() -> None:
    text = TEXT.replace(
        'even: {wsgi: {app: "shop:application"}}', 'even: {wsgi: {app: "a:b"}, buffer: off, health_check: off}'
    )
    upstream = parse_config(text, "/etc/x.yaml", {}).upstreams["even"]
    assert upstream.health_check is None
    assert (upstream.buffer.request, upstream.buffer.response) == (0, 0)


def test_run_dir_that_is_too_deep_is_a_problem() -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        with_hosted_servers(parse_config(TEXT, "/etc/x.yaml", {}), "/" + "d" * 100)
