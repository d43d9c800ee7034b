"""Every key of the configuration is known and typed, those of later features too."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from greenproxy.config.availability import NOT_AVAILABLE, unavailable
from greenproxy.config.document import compose, to_data
from greenproxy.config.load import parse_config
from greenproxy.config.schema import Config
from greenproxy.errors import ConfigError

EVERYTHING = """\
server:
  workers: {min: 2, max: 4}
  graceful_timeout: 10s
  watchdog: 20s
  pid_file: gp.pid
  user: root
  state_dir: state
  trusted_proxies: [192.168.0.0/16, 10.1.2.3]
  allow_underscores: false
  limits:
    {header_timeout: 5s, body_timeout: 15s, keepalive_timeout: 30s, max_request_line: 4KB, max_header_bytes: 16KB,
     max_headers: 50, max_body: 5MB, max_connections: 500, max_requests_per_connection: 10}
listeners:
  - {address: 127.0.0.1:8000, redirect_https: true, mode: http}
  - address: 127.0.0.1:8443
    proxy_protocol: false
    tls:
      certificates: [{cert: a.pem, key: a.key}, {cert: b.pem, key: b.key}]
      min_version: 1.3
      client_ca: ca.pem
      client_auth: optional
  - {address: 127.0.0.1:8444, mode: tls_passthrough, sni: {old.example.org: plain, "*.example.org": main}}
  - {address: 127.0.0.1:8445, mode: tcp, upstream: plain}
upstreams:
  main:
    balance: consistent_hash
    hash_on: cookie:session
    sticky: {cookie: stay, ttl: 2h}
    servers:
      - {address: 10.9.0.1:80, weight: 5, max_connections: 10}
      - {address: main.internal:80, resolve: true}
      - {address: unix:main.sock}
      - {address: "[fd00::1]:80", backup: true}
    health_check: {path: /up, host: main.internal, interval: 3s, timeout: 2s, rise: 1, fall: 2, expect: [200, 300-399]}
    outlier: {consecutive_failures: 3, ejection: 5s, max_ejection: 1m}
    slow_start: 10s
    retry: {attempts: 3, budget: 10%, on: [connect, reset, timeout, "502", "503", "504"]}
    timeouts: {connect: 500ms, read: 1m}
    pool: {max_idle: 16, idle_timeout: 20s}
    buffer: {request: 64KB, response: 128KB}
    proxy_protocol: v1
    tls: {verify: true, ca: ca.pem, server_name: main.internal, cert: me.pem, key: me.key}
  plain: {servers: [{address: 10.9.0.2:443}]}
  app:
    wsgi:
      {app: "pkg.mod:make.app", chdir: ., python: /bin/sh, processes: {min: 1, max: 3}, threads: 4, weights: [1],
       env: {A: b, N: 1}, start_timeout: 5s}
routes:
  - match: {host: "*.example.org", path: /x/, methods: [PUT, POST], headers: {X-Beta: "1"}, cookies: {ab: b}}
    split: {main: 9, plain: 1}
    split_cookie: side
    strip_prefix: true
    headers: {request: {set: {X-A: b}, remove: [X-C]}, response: {set: {X-D: e}, remove: [Server]}}
    error_pages: {502: /etc/passwd, 4xx: /etc/passwd}
    rate_limit: {rate: 5/m, burst: 3, key: header:X-Key}
    waf: {mode: detect}
    cache: true
  - match: {path: /go}
    respond: {status: 302, location: /x/, body: moved, content_type: text/html, headers: {X-E: f}}
  - {match: {path: /static/}, files: {root: /etc, index: start.html}}
  - upstream: app
rate_limit: {rate: 50/s, burst: 80, key: ip, ban: {after: 10, within: 30s, for: 5m}, allow: [10.1.0.0/16]}
waf:
  {mode: block, rules: [builtin, /x/*.conf], paranoia: 2, threshold: 7, body_limit: 64KB, on_error: pass,
   exclude: [{path: /editor, rules: [941000-941999, 942100], args: [body]}]}
cache: {path: cache, size: 2GB, memory: 32MB, default_ttl: 1s}
log: {access: access.log, error: stderr, level: debug, security: waf.log}
admin: {address: 127.0.0.1:9901, token: t0ken}
"""


def as_data(text: str) -> object:
    node = compose(text, lambda value, line, column: (value, True), pytest.fail)
    assert node is not None
    return to_data(node)


def test_every_key_is_known_and_typed() -> None:
    config = Config.model_validate(as_data(EVERYTHING), context={"folder": "/etc"})
    assert config.waf is not None
    assert config.waf.exclude[0].rules == ((941000, 941999), (942100, 942100))
    assert config.rate_limit is not None
    assert config.rate_limit.ban is not None
    assert (config.rate_limit.rate, config.rate_limit.ban.for_) == (50.0, 300.0)
    assert config.listeners[1].tls is not None
    assert (config.listeners[1].tls.min_version, config.listeners[1].tls.certificates[0].cert) == ("1.3", "/etc/a.pem")
    assert config.upstreams["main"].retry.budget == 0.1


def test_every_key_of_every_model_is_in_the_example() -> None:
    """So that no key can be added without its line in EVERYTHING."""
    config = Config.model_validate(as_data(EVERYTHING), context={"folder": "/etc"})
    pending, given, known = [config], set(), set()
    while pending:
        section = pending.pop()
        known |= {(type(section).__name__, name) for name in type(section).model_fields}
        given |= {(type(section).__name__, name) for name in section.model_fields_set}
        for value in dict(section).values():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            pending += [item for item in items if hasattr(item, "model_fields_set")]
    assert known - given == set()


def test_what_is_not_built_is_refused_and_nothing_else() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(EVERYTHING, "/etc/gp.yaml", {})
    refused = {problem.path for problem in caught.value.problems}
    assert {problem.message for problem in caught.value.problems} <= {
        "not available yet",
        "bounds {min, max} are not available yet",
        "'tcp' is not available yet",
        "'tls_passthrough' is not available yet",
        "'consistent_hash' is not available yet",
    }
    assert len(refused) >= len(NOT_AVAILABLE)


@pytest.mark.parametrize("path", NOT_AVAILABLE)
def test_each_line_of_the_table_refuses_its_key(path: str) -> None:
    found = {".".join(str(part) for part in loc if part != "[key]") for loc, _ in unavailable(as_data(EVERYTHING))}
    head, *rest = path.split(".*.")
    assert [name for name in found if name.startswith(head) and name.endswith(rest[-1] if rest else head)]


def test_place_of_a_refused_key_is_the_key() -> None:
    text = "listeners: [{address: a:1}]\nroutes: [{respond: {}, cache: false}]\nwaf: {mode: off}"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x", {})
    assert [str(problem) for problem in caught.value.problems] == [
        "x:2:24: routes[0].cache: not available yet",
        "x:3:1: waf: not available yet",
    ]


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("waf", {"mode": "loud"}),
        ("waf", {"paranoia": 5}),
        ("waf", {"exclude": [{"rules": ["9-1"]}]}),
        ("waf", {"exclude": [{"path": "/"}]}),
        ("rate_limit", {"rate": "10", "burst": 1}),
        ("rate_limit", {"rate": "10/s"}),
        ("rate_limit", {"rate": "10/s", "burst": 1, "key": "moon"}),
        ("cache", {"size": "big"}),
        ("listeners", [{"address": "a:1", "tls": {"certificates": []}}]),
        ("listeners", [{"address": "a:1", "tls": {"certificates": [{"cert": "a"}]}}]),
        ("listeners", [{"address": "a:1", "mode": "udp"}]),
        ("upstreams", {"a": {"servers": [{"address": "a:1"}], "retry": {"budget": 0.2}}}),
        ("upstreams", {"a": {"servers": [{"address": "a:1"}], "hash_on": "header:"}}),
        ("upstreams", {"a": {"servers": [{"address": "a:1"}], "proxy_protocol": "v3"}}),
        ("upstreams", {"a": {"servers": [{"address": "a:1"}], "tls": {"verify": "x"}}}),
        ("server", {"workers": {"min": 3, "max": 2}}),
    ],
)
def test_keys_of_later_features_are_typed(section: str, value: object) -> None:
    data = {"listeners": [{"address": "a:1"}], "routes": [{"respond": {}}]}
    with pytest.raises(ValidationError):
        Config.model_validate({**data, section: value})
