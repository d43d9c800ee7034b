"""The pid file: written whole, refused to a second instance, removed by its owner only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenproxy.errors import StartError
from greenproxy.master.pidfile import PidFile


@pytest.fixture
def instance() -> Iterator[int]:
    """A living process whose command line looks like ours."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "greenproxy"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


def test_taken_file_tells_our_pid_and_leaves_no_draft(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "gp.pid"))
    file.take()
    assert (tmp_path / "gp.pid").read_text() == f"{os.getpid()}\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["gp.pid"]
    file.release()
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_living_instance_is_refused_and_kept(tmp_path: Path, instance: int) -> None:
    path = tmp_path / "gp.pid"
    path.write_text(f"{instance}\n")
    with pytest.raises(StartError, match=f"pid {instance} .*{path}"):
        PidFile(str(path)).take()
    assert path.read_text() == f"{instance}\n"


@pytest.mark.parametrize("stale", ["", "rubbish", "0", "999999999\n", f"{os.getppid()}\n", f"{os.getpid()}\n"])
def test_stale_file_is_taken_over(tmp_path: Path, stale: str) -> None:
    path = tmp_path / "gp.pid"
    path.write_text(stale)
    PidFile(str(path)).take()
    assert path.read_text() == f"{os.getpid()}\n"


def test_file_that_another_has_taken_since_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "gp.pid"
    file = PidFile(str(path))
    file.take()
    path.write_text("4711\n")
    file.release()
    assert path.read_text() == "4711\n"


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "gp.pid"
    with pytest.raises(StartError, match=f"cannot write the pid file {path}"):
        PidFile(str(path)).take()
