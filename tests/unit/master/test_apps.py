"""The command, the environment and the output of a hosted application's process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from greenproxy.config.schema import HostedApp
from greenproxy.master import apps
from greenproxy.master.apps import MAX_LINE_BYTES, Lines
from greenproxy.master.plan import Kind, Seat

SEAT = Seat(Kind.APP, 2, "shop")


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc", b"\n"], ["ab", "c"]),
        ([b"\n\n  \n"], []),
        ([b"a\r\n"], ["a"]),
        ([b"caf\xc3", b"\xa9\n"], ["café"]),
        ([b"\xff\xfe\n"], ["\\xff\\xfe"]),
        ([b"x" * (2 * MAX_LINE_BYTES + 1) + b"\n"], ["x" * MAX_LINE_BYTES, "x" * MAX_LINE_BYTES, "x"]),
    ],
)
def test_lines_are_cut_where_they_end(chunks: list[bytes], lines: list[str]) -> None:
    splitter = Lines()
    assert [line for chunk in chunks for line in splitter.feed(chunk)] == lines


def test_output_without_line_end_is_not_kept_without_bound() -> None:
    splitter = Lines()
    pieces = [piece for _ in range(100) for piece in splitter.feed(b"x" * 1000)]
    assert {len(piece) for piece in pieces} == {MAX_LINE_BYTES}
    assert sum(len(piece) for piece in [*pieces, *splitter.end()]) == 100_000


def test_last_line_without_line_end_is_not_lost() -> None:
    splitter = Lines()
    assert splitter.feed(b"Traceback\nValueError: bad") == ["Traceback"]
    assert splitter.end() == ["ValueError: bad"]
    assert splitter.end() == []


def test_socket_of_a_process_is_where_its_server_is_configured(tmp_path: Path) -> None:
    assert apps.socket_path("/run/gp", SEAT) == "/run/gp/shop-2.sock"


def test_command_names_everything_the_host_needs(tmp_path: Path) -> None:
    app = HostedApp(app="shop.wsgi:application", chdir=str(tmp_path), threads=4)
    command = apps.command(app, SEAT, "/run/gp", 7, 8)
    assert command[:3] == [sys.executable, "-u", apps.APPHOST]
    assert Path(apps.APPHOST).is_file()
    assert command[3:] == [
        "--app=shop.wsgi:application",
        f"--chdir={tmp_path}",
        "--socket=/run/gp/shop-2.sock",
        "--threads=4",
        "--ready-fd=7",
        "--parent-fd=8",
        "--name=shop/2",
    ]


def test_environment_is_ours_with_the_configured_on_top(tmp_path: Path) -> None:
    app = HostedApp(app="a:b", chdir=str(tmp_path), env={"MODE": "prod"})
    assert apps.environment(app, {"MODE": "dev", "HOME": "/h", "PYTHONPATH": "/p"}) == {
        "MODE": "prod",
        "HOME": "/h",
        "PYTHONPATH": "/p",
    }


def test_another_interpreter_does_not_see_where_ours_finds_its_modules(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    app = HostedApp(app="a:b", chdir=str(tmp_path), python=str(other))
    assert apps.environment(app, {"HOME": "/h", "PYTHONPATH": "/p", "VIRTUAL_ENV": "/v"}) == {"HOME": "/h"}
