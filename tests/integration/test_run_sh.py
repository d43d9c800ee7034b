"""run.sh in a small checkout of its own: what it makes, what it hands on, and what it says when it cannot.

The lock files of that checkout are empty, so nothing is fetched; making the environment is real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import os, sys\nprint('ran', sys.prefix, os.getcwd(), *sys.argv[1:])\n"
# What run.sh needs of the system, without python3 and apt-get.
SYSTEM_TOOLS = ("bash", "env", "dirname", "readlink", "id", "sha256sum", "cat", "grep", "awk", "flock", "rm", "mv")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with run.sh and a program that prints what it was given."""
    folder = tmp_path / "check out"  # with a space, as people have them
    (folder / "greenproxy").mkdir(parents=True)
    shutil.copy(ROOT / "run.sh", folder)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (folder / lock).write_text("# nothing\n")
    (folder / "greenproxy" / "__init__.py").write_text("")
    (folder / "greenproxy" / "__main__.py").write_text(PROGRAM)
    return folder


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder to use as $PATH: the system's tools, without Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in SYSTEM_TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def run(checkout: Path, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the checkout's run.sh as a newcomer would, with this test's interpreter as python3."""
    clean = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "CI")}
    clean["PYTHON"] = getattr(sys, "_base_executable", sys.executable)
    command = [str(checkout / "run.sh"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**clean, **environ}, capture_output=True, text=True, timeout=90, check=False
    )


def test_first_start_makes_environment_and_later_starts_install_nothing(checkout: Path, tmp_path: Path) -> None:
    first = run(checkout, "conf/prod.yaml", "x", cwd=tmp_path)
    assert first.stdout == f"ran {checkout}/.venv {tmp_path} conf/prod.yaml x\n", first.stderr
    assert "making" in first.stderr

    second = run(checkout, "check", "conf/prod.yaml", cwd=tmp_path)
    assert second.stdout == f"ran {checkout}/.venv {tmp_path} check conf/prod.yaml\n"
    assert second.stderr == ""

    (checkout / "requirements.lock").write_text("# nothing again\n")
    third = run(checkout, "x.yaml")
    assert third.returncode == 0
    assert "installing" in third.stderr
    assert "making" not in third.stderr


def test_no_argument_runs_the_demo_and_says_where_to_look(checkout: Path) -> None:
    done = run(checkout)
    assert done.stdout.endswith(f" {checkout}/conf/demo.yaml\n"), done.stderr
    assert "http://127.0.0.1:8080" in done.stderr


def test_two_starts_at_once_share_one_environment(checkout: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda name: run(checkout, name), ("a.yaml", "b.yaml")))
    assert [done.returncode for done in both] == [0, 0], both
    assert sum("making" in done.stderr for done in both) == 1


def test_virtual_env_is_used_and_never_made_anew(checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, "x.yaml", VIRTUAL_ENV=str(tmp_path))
    assert done.returncode == 1
    assert f"VIRTUAL_ENV={tmp_path} holds no Python" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_new_enough_python_is_named(checkout: Path, bare_path: Path) -> None:
    (bare_path / "python3").write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.8.18\nexit 1\n")
    (bare_path / "python3").chmod(0o755)
    done = run(checkout, "x.yaml", PATH=str(bare_path), PYTHON="")
    assert done.returncode == 1
    assert "Python 3.10 or newer is needed; python3 here is Python 3.8.18" in done.stderr


def test_python_without_ensurepip_names_the_debian_package(checkout: Path, bare_path: Path, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "ensurepip.py").write_text("raise ImportError('as on Debian')\n")
    done = run(checkout, "x.yaml", PATH=str(bare_path), PYTHONPATH=str(tmp_path / "hidden"))
    assert done.returncode == 1
    assert "cannot make a virtual environment; as root: apt-get install python3" in done.stderr
    assert "-venv" in done.stderr
