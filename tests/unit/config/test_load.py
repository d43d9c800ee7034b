"""The whole way from a file to a Config, or to every problem with its place."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenproxy.config.load import load_config, parse_config
from greenproxy.config.schema import Config
from greenproxy.errors import ConfigError

BASE = """\
listeners: [{address: 127.0.0.1:8080}]
upstreams: {shop: {servers: [{address: 127.0.0.1:9000}]}}
routes: [{upstream: shop}]
"""
LISTENERS, UPSTREAMS, ROUTES = BASE.splitlines()


def parse(text: str, **environ: str) -> Config:
    return parse_config(text, "/etc/gp.yaml", environ)


def problems(text: str, **environ: str) -> list[str]:
    """The problems of a text, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    return [str(problem).removeprefix("/etc/gp.yaml:") for problem in caught.value.problems]


def server(text: str) -> str:
    return f"{BASE}server: {text}\n"


def upstream(text: str) -> str:
    """A file whose second line is an upstream with a good server and `text`."""
    return f"{LISTENERS}\nupstreams: {{a: {{servers: [{{address: a:1}}], {text}}}}}\nroutes: [{{upstream: a}}]"


def hosted(text: str) -> str:
    return f"{LISTENERS}\nupstreams: {{a: {{wsgi: {{app: 'm:a', {text}}}}}}}\nroutes: [{{upstream: a}}]"


def route(text: str) -> str:
    """A file whose third line is a route with `text`."""
    return f"{LISTENERS}\n{UPSTREAMS}\nroutes: [{{{text}}}]"


def headers(text: str) -> str:
    return route(f"upstream: shop, headers: {text}")


def test_defaults() -> None:
    config = parse(BASE)
    shop = config.upstreams["shop"]
    assert config.server.workers == len(os.sched_getaffinity(0))
    assert (config.server.limits.header_timeout, config.server.limits.max_header_bytes) == (10.0, 32768)
    assert (shop.balance, shop.retry.attempts, shop.retry.on) == ("round_robin", 2, ("connect", "reset"))
    assert (shop.health_check, shop.outlier, shop.buffer.request, shop.servers[0].weight) == (None, None, 0, 1)
    assert (config.waf, config.rate_limit, config.cache) == (None, None, None)
    assert config.admin is not None
    assert (str(config.admin.address), config.admin.token) == ("127.0.0.1:9900", None)


def test_values_are_typed() -> None:
    config = parse(
        BASE.replace("servers:", "retry: {on: [connect, 503, '502']}, health_check: {expect: [200-299, 404]}, servers:")
        + "server: {workers: 3, trusted_proxies: [10.0.0.0/8], limits: {max_body: 1GB, body_timeout: 500ms}}\n"
        + "log: {access: off, error: e.log}\nadmin: off\n"
    )
    shop = config.upstreams["shop"]
    assert shop.retry.on == ("connect", "503", "502")
    assert shop.health_check is not None
    assert shop.health_check.expect == ((200, 299), (404, 404))
    assert (config.server.workers, config.server.limits.max_body, config.server.limits.body_timeout) == (
        3,
        1 << 30,
        0.5,
    )
    assert str(config.server.trusted_proxies[0]) == "10.0.0.0/8"
    assert (config.log.access, config.log.error, config.admin) == (None, "/etc/e.log", None)


def test_relative_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "down.html").write_text("x")
    (tmp_path / "static").mkdir()
    file = tmp_path / "gp.yaml"
    file.write_text(
        "server: {pid_file: gp.pid}\nlisteners: [{address: unix:gp.sock}]\n"
        "routes: [{files: {root: static}, error_pages: {5xx: down.html, 502: ./down.html}}]\n"
    )
    config = load_config(os.path.relpath(file))
    assert config.server.pid_file == f"{tmp_path}/gp.pid"
    assert str(config.listeners[0].address) == f"unix:{tmp_path}/gp.sock"
    assert config.routes[0].files is not None
    assert config.routes[0].files.root == f"{tmp_path}/static"
    assert config.routes[0].error_pages == {"5xx": f"{tmp_path}/down.html", "502": f"{tmp_path}/down.html"}


def test_json_is_valid() -> None:
    text = '{\n\t"listeners": [{"address": "127.0.0.1:8080"}],\n\t"routes": [{"respond": {"status": 204}}]\n}'
    assert parse(text.replace("\t", " ")).routes[0].respond is not None


def test_config_survives_pickle_and_cannot_be_changed() -> None:
    config = parse(BASE)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.server.workers = 5  # type: ignore[misc]


# One problem each: (text with ^ before the place, path, a part of the message).
CASES = [
    ("^[]", "", "must be a mapping of keys"),
    ("^- a\n- b", "", "must be a mapping of keys"),
    ("^hello", "", "must be a mapping of keys"),
    (BASE + "^servr: {}", "servr", "unknown key (did you mean 'server'?)"),
    (BASE + "^zzzz: {}", "zzzz", "unknown key"),
    (BASE + "log:^", "log", "needs a value"),
    (upstream("health_check: ^"), "upstreams.a.health_check", "needs a value"),
    (upstream("health_check: {host: ^~}"), "upstreams.a.health_check.host", "needs a value"),
    (BASE + "log: ^3", "log", "must be a mapping"),
    (f"^{UPSTREAMS}\n{ROUTES}", "listeners", "is needed"),
    (f"^{LISTENERS}\n{UPSTREAMS}", "routes", "is needed"),
    (f"listeners: ^[]\n{UPSTREAMS}\n{ROUTES}", "listeners", "must not be empty"),
    (f"{LISTENERS}\n{UPSTREAMS}\nroutes: ^[]", "routes", "must not be empty"),
    (f"listeners: ^{{}}\n{UPSTREAMS}\n{ROUTES}", "listeners", "must be a list"),
    (BASE.replace("127.0.0.1:8080", "^127.0.0.1"), "listeners[0].address", "'127.0.0.1' is not an address"),
    (BASE.replace("8080}", "8080}, {address: ^127.0.0.1:8080}"), "listeners[1].address", "listened on twice"),
    (BASE + "admin: {address: ^127.0.0.1:8080}", "admin.address", "listened on twice"),
    (BASE + "admin: {address: ^'[::]:9'}", "admin.address", "'[::]:9' can be reached from other machines"),
    (BASE + "admin: {token: ^'a b'}", "admin.token", "visible ASCII"),
    (BASE + "log: {level: ^loud}", "log.level", "'loud' is none of debug, info, warning, error"),
    (BASE + "log: {level: ^warn}", "log.level", "(did you mean 'warning'?)"),
    (server("{workers: ^0}"), "server.workers", "must be at least 1"),
    (server("{workers: ^many}"), "server.workers", "must be a whole number"),
    (server("{workers: ^2.5}"), "server.workers", "must be a whole number"),
    (server("{workers: ^true}"), "server.workers", "must be a whole number"),
    (server("{graceful_timeout: ^30}"), "server.graceful_timeout", "'30' is not a duration"),
    (server("{graceful_timeout: ^1:30}"), "server.graceful_timeout", "'1:30' is not a duration"),
    (server("{watchdog: ^0s}"), "server.watchdog", "must be more than 0"),
    (server("{user: ^no-such-user}"), "server.user", "there is no user 'no-such-user'"),
    (server("{trusted_proxies: ^10.0.0.0/8}"), "server.trusted_proxies", "must be a list"),
    (server("{allow_underscores: ^perhaps}"), "server.allow_underscores", "neither true nor false"),
    (server("{limits: {max_headers: ^017}}"), "server.limits.max_headers", "must be a whole number"),
    (server("{limits: {^max_hedders: 1}}"), "server.limits.max_hedders", "(did you mean 'max_headers'?)"),
    (server("{limits: {max_body: ^1KiB}}"), "server.limits.max_body", "'1KiB' is not a size"),
    (upstream("^servres: []"), "upstreams.a.servres", "(did you mean 'servers'?)"),
    (upstream("balance: ^round_robbin"), "upstreams.a.balance", "(did you mean 'round_robin'?)"),
    (BASE.replace("servers: ", "wsgi: {app: 'm:a'}, servers: ^"), "upstreams.shop.servers", "either servers or wsgi"),
    (upstream("retry: {attempts: ^0}"), "upstreams.a.retry.attempts", "must be at least 1"),
    (upstream("retry: {on: [connect, ^404]}"), "upstreams.a.retry.on[1]", "'404' is none of connect, reset"),
    (upstream("retry: {on: ^connect}"), "upstreams.a.retry.on", "must be a list"),
    (upstream("health_check: {interval: ^0s}"), "upstreams.a.health_check.interval", "must be more than 0"),
    (upstream("health_check: {rise: ^0}"), "upstreams.a.health_check.rise", "must be at least 1"),
    (upstream("health_check: {fall: ^0}"), "upstreams.a.health_check.fall", "must be at least 1"),
    (upstream("health_check: {path: ^x}"), "upstreams.a.health_check.path", "'x' is not a path"),
    (upstream("health_check: {expect: ^399-200}"), "upstreams.a.health_check.expect", "ends before it begins"),
    (upstream("health_check: {expect: ^2xx}"), "upstreams.a.health_check.expect", "'2xx' is not a status"),
    (upstream("health_check: {expect: ^[]}"), "upstreams.a.health_check.expect", "must not be empty"),
    (upstream("buffer: {request: ^lots}"), "upstreams.a.buffer.request", "'lots' is not a size"),
    (upstream("pool: {max_idle: ^-1}"), "upstreams.a.pool.max_idle", "must be at least 0"),
    (BASE.replace("127.0.0.1:9000", "^127.0.0.1:0"), "upstreams.shop.servers[0].address", "port from 1 to 65535"),
    (BASE.replace("9000}", "9000, weight: ^1001}"), "upstreams.shop.servers[0].weight", "at most 1000"),
    (BASE.replace("9000}", "9000, weight: ^0}"), "upstreams.shop.servers[0].weight", "at least 1"),
    (BASE.replace("{address: 127.0.0.1:9000}", "^{weight: 2}"), "upstreams.shop.servers[0].address", "is needed"),
    (BASE.replace("9000}", "9000}, {address: ^127.0.0.1:9000}"), "upstreams.shop.servers[1].address", "twice"),
    (BASE.replace("[{address: 127.0.0.1:9000}]", "^[]"), "upstreams.shop.servers", "servers (at least one) or wsgi"),
    (BASE.replace("{servers: [{address: 127.0.0.1:9000}]}", "^{}"), "upstreams.shop", "servers (at least one) or wsgi"),
    (BASE.replace("{shop: ", "{shop: {servers: [{address: a:1}]}, ^a/b: "), "upstreams['a/b']", "a name has 1 to 63"),
    (hosted("chdir: ^/no/where"), "upstreams.a.wsgi.chdir", "there is no folder '/no/where'"),
    (hosted("python: ^/etc/passwd"), "upstreams.a.wsgi.python", "no program that can be executed"),
    (hosted("python: ^no-such-python"), "upstreams.a.wsgi.python", "no program that can be executed"),
    (hosted("processes: 2, weights: ^[1]"), "upstreams.a.wsgi.weights", "1 weights for 2 processes"),
    (hosted("processes: 1, weights: [^0]"), "upstreams.a.wsgi.weights[0]", "at least 1"),
    (hosted("env: {A: ^[1]}"), "upstreams.a.wsgi.env.A", "must be text"),
    (hosted("env: {^'A=B': c}"), "upstreams.a.wsgi.env['A=B']", "no name of an environment variable"),
    (hosted("^thread: 3"), "upstreams.a.wsgi.thread", "(did you mean 'threads'?)"),
    (
        BASE.replace("servers: [{address: 127.0.0.1:9000}]", "wsgi: {app: ^shop}"),
        "upstreams.shop.wsgi.app",
        "'shop' is not module:attribute",
    ),
    (route("upstream: ^sohp"), "routes[0].upstream", "'sohp' is no upstream of this file (did you mean 'shop'?)"),
    (route("split: {^sohp: 1}"), "routes[0].split.sohp", "no upstream of this file (did you mean 'shop'?)"),
    (route("split: {shop: ^0}"), "routes[0].split.shop", "at least 1"),
    (route("split: ^{}"), "routes[0].split", "must not be empty"),
    (route("split_cookie: ^'a b', split: {shop: 1}"), "routes[0].split_cookie", "is not a token"),
    (route("upstream: shop, split_cookie: ^a"), "routes[0].split_cookie", "means nothing without split"),
    (
        f"{LISTENERS}\n{UPSTREAMS}\nroutes: [^{{match: {{path: /}}}}]",
        "routes[0]",
        "needs one of upstream, split, respond, files",
    ),
    (route("upstream: shop, respond: ^{}"), "routes[0].respond", "exactly one of"),
    (route("upstream: shop, strip_prefix: ^true"), "routes[0].strip_prefix", "needs a match.path"),
    (route("upstream: shop, match: {^hots: a}"), "routes[0].match.hots", "(did you mean 'host'?)"),
    (route("upstream: shop, match: {host: ^'a:80'}"), "routes[0].match.host", "'a:80' is not a host"),
    (route("upstream: shop, match: {host: ^'a.*'}"), "routes[0].match.host", "'a.*' is not a host"),
    (route("upstream: shop, match: {path: ^a}"), "routes[0].match.path", "'a' is not a path"),
    (route("upstream: shop, match: {path: ^/a?b}"), "routes[0].match.path", "is not a path"),
    (route("upstream: shop, match: {path: ^/../a}"), "routes[0].match.path", "dot segment"),
    (route("upstream: shop, match: {methods: [^get]}"), "routes[0].match.methods[0]", "(did you mean 'GET'?)"),
    (route("upstream: shop, match: {methods: ^[]}"), "routes[0].match.methods", "must not be empty"),
    (route("upstream: shop, match: {headers: {^'X A': b}}"), "routes[0].match.headers['X A']", "is not a token"),
    (route("upstream: shop, match: {cookies: {a: ^'b;c'}}"), "routes[0].match.cookies.a", "a cookie's value"),
    (route("respond: {status: ^301}"), "routes[0].respond.status", "a redirect (301) needs a location"),
    (route("respond: {status: ^101}"), "routes[0].respond.status", "at least 200"),
    (route("respond: {status: 204, body: ^x}"), "routes[0].respond.body", "an answer 204 has no body"),
    (route("respond: {headers: {^Location: x}}"), "routes[0].respond.headers.Location", "a key of its own: location"),
    (route("respond: {headers: {^connection: x}}"), "routes[0].respond.headers.connection", "the proxy's own"),
    (route("files: {root: ^/no/where}"), "routes[0].files.root", "there is no folder '/no/where'"),
    (route("files: {root: /etc, index: ^a/b}"), "routes[0].files.index", "is not the name of a file"),
    (route("files: ^{}"), "routes[0].files.root", "is needed"),
    (route("upstream: shop, error_pages: {502: ^/no/file}"), "routes[0].error_pages.502", "no file '/no/file'"),
    (route("upstream: shop, error_pages: {^200: /etc/passwd}"), "routes[0].error_pages.200", "502 or 5xx"),
    (
        headers("{request: {set: {^Content-Length: 1}}}"),
        "routes[0].headers.request.set.Content-Length",
        "the proxy's own",
    ),
    (headers("{request: {set: {^transfer-encoding: x}}}"), "routes[0].headers.request.set.transfer-encoding", "own"),
    (headers("{request: {remove: [^Host]}}"), "routes[0].headers.request.remove[0]", "the proxy's own"),
    (headers("{response: {set: {^Host: a}}}"), "routes[0].headers.response.set.Host", "the proxy's own"),
    (headers("{response: {set: {A: b, ^a: c}}}"), "routes[0].headers.response.set.a", "given twice: as A too"),
    (headers('{response: {set: {A: ^"b\\r\\nC: d"}}}'), "routes[0].headers.response.set.A", "a line break"),
    (headers('{response: {set: {^"A\\r\\nB": c}}}'), "routes[0].headers.response.set['A\\r\\nB']", "is not a token"),
    (headers("{response: {remove: [^'A:']}}"), "routes[0].headers.response.remove[0]", "is not a token"),
]


@pytest.mark.parametrize(("marked", "path", "message"), CASES)
def test_problem_has_place_path_and_words(marked: str, path: str, message: str) -> None:
    before, _, after = marked.partition("^")
    (found,) = problems(before + after)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert found.startswith(f"{line}:{column}: {path}: " if path else f"{line}:{column}: ")
    assert message in found
    assert "\n" not in found and "\r" not in found


def test_host_may_be_set_in_a_request() -> None:
    config = parse(headers("{request: {set: {Host: a.internal, X-N: 1}}}"))
    assert config.routes[0].headers.request.set == {"Host": "a.internal", "X-N": "1"}


def test_admin_beyond_loopback_is_fine_with_a_token() -> None:
    admin = parse(BASE + "admin: {address: 0.0.0.0:9, token: ${T}}", T="secret").admin
    assert admin is not None
    assert admin.token == "secret"
    assert "secret" not in repr(admin)


def test_port_0_may_be_listened_on_more_than_once() -> None:
    assert len(parse(BASE.replace("8080}", "0}, {address: 127.0.0.1:0}")).listeners) == 2


def test_all_problems_come_at_once_in_file_order() -> None:
    text = (
        "routes: [{upstream: nope}]\n"
        "server: {workrs: 1, limits: {max_body: x}}\n"
        "listeners: [{address: a}]\n"
        "upstreams: {b: {servers: [{address: a:1, wieght: 2}], waf: 1, slow_start: 5}}\n"
        "server: {}\n"
        "cache: ${NONE}\n"
    )
    assert [line.split(": ")[0] for line in problems(text)] == [
        "1:21", "2:10", "2:40", "3:23", "4:42", "4:55", "4:63", "4:75", "5:1", "6:1", "6:8",
    ]  # fmt: skip


def test_one_wrong_key_hides_no_problem_between_sections() -> None:
    assert len(problems(BASE.replace("upstream: shop", "upstream: nope") + "oops: 1")) == 2


def test_thousands_of_problems_are_cut_short() -> None:
    found = problems(BASE + "\n".join(f"k{n}: 1" for n in range(5000)))
    assert len(found) == 201
    assert "and 4800 more problems" in found[-1]


@pytest.mark.parametrize(
    "text",
    [
        "admin: {address: 0.0.0.0:1, tokn: s3cret}",
        "admin: {token: [s3cret]}",
        "admin: {token: 's3cret s3cret'}",
        "admin: s3cret",
        "admin: ${SECRET}",
        "server: {workers: '${SECRET}'}",
        "log: {level: '${SECRET}'}",
        "log: {level: '${OTHER:-s3cret}'}",
        "upstreams: {a: {wsgi: {app: 'a:b', env: {A: ['s3cret']}}}}",
        "routes: [{upstream: '${SECRET}'}]",
        'routes: [{upstream: shop, headers: {request: {set: {Authorization: "s3cret\\n"}}}}]',
    ],
)
def test_secret_never_appears_in_a_problem(text: str) -> None:
    name = text.split(":")[0]
    rest = "\n".join(line for line in BASE.splitlines() if not line.startswith(name))
    assert not [line for line in problems(f"{rest}\n{text}", SECRET="s3cret") if "s3cret" in line]


def load_bytes(tmp_path: Path, data: bytes) -> list[str]:
    """The problems of a file with these bytes."""
    file = tmp_path / "gp.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    return [str(problem).removeprefix(f"{file}") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ": the file is empty"),
        (b"# nothing\n\n", ": the file is empty"),
        (b"\xff\xfe\x00\x01", ":1:1: not UTF-8 text"),
        (b"a: 1\nb: \xc3\x28", ":2:4: not UTF-8 text"),
        (b"a: 1\nb: \x00", ":2:4: the character U+0000 is not allowed"),
        (b"\x7fELF\x02\x01", ":1:1: the character U+007F is not allowed"),
        ("a: \U00100000".encode(), ":1:4: the character U+100000 is not allowed"),
        (b"a:\n\tb: 1", ":2:1: a tab cannot indent YAML; use spaces"),
        (b"a: 1\n" * (10 << 20 >> 2), ": larger than 1 MB"),
        (b"---\n", ":"),
        (b"a: " + b"[" * 100_000, ": nested deeper than 32 levels"),
    ],
)
def test_bad_file(tmp_path: Path, data: bytes, expected: str) -> None:
    found = load_bytes(tmp_path, data)
    assert expected in found[0] or found[0].endswith(expected)


def test_byte_order_mark_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "gp.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_config(str(file)) == parse(BASE)


@pytest.mark.parametrize(
    ("name", "message"), [("none.yaml", "No such file"), (".", "Is a directory"), ("a\0b", "not a path")]
)
def test_file_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / name))


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_give_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(data.decode("latin-1"), "x.yaml", {})


WORDS = [
    "server",
    "limits",
    "upstreams",
    "a",
    "servers",
    "address",
    "a:1",
    "routes",
    "match",
    "retry",
    "on",
    "wsgi",
    "admin",
]
TREES = st.recursive(
    st.sampled_from([*WORDS, "5s", "1MB", "off", "[key]", "[a]"])
    | st.integers()
    | st.none()
    | st.booleans()
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WORDS, "[key]"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Config.model_fields, TREES)))
@settings(max_examples=300)
def test_any_tree_of_known_words_gives_a_config_or_placed_problems(tree: dict[str, object]) -> None:
    try:
        parse_config(json.dumps(tree), "x.yaml", {})
    except ConfigError as error:
        assert all(problem.line for problem in error.problems)


def test_configuration_imports_nothing_of_a_worker() -> None:
    code = "import sys, greenproxy.config.load; print(sorted({'gevent', 'urllib3', 'werkzeug'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_misspelt_first_key_is_named_beside_the_key_it_leaves_missing() -> None:
    text = "listners: []\nroutes: [{respond: {status: 200}}]\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "a.yaml", {})
    assert [str(problem) for problem in caught.value.problems] == [
        "a.yaml:1:1: listeners: is needed",
        "a.yaml:1:1: listners: unknown key (did you mean 'listeners'?)",
    ]
