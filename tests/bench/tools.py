"""The programs that the bench compares with and measures by: found, or installed where this may install.

Owns:       what is needed, and where it comes from (Debian packages, two npm packages in a cache folder).
Leaves to:  contenders.py and load.py to run them.
Called by:  __main__.py, once.
Invariant:  nothing is written into the checkout, and no version floats: package.json names the npm packages exactly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEBIAN_PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "node": "nodejs", "npm": "npm"}
# Debian puts nginx where only root's PATH looks.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"


@dataclass(frozen=True)
class Tools:
    """Paths of what was found; None for what could not be had."""

    wrk: str | None
    nginx: str | None
    node: str | None
    node_modules: Path | None

    def missing(self) -> list[str]:
        """Name what is missing, as a person would install it."""
        names = [name for name in ("wrk", "nginx", "node") if getattr(self, name) is None]
        lines = [f"{name} (Debian package {DEBIAN_PACKAGES[name]})" for name in names]
        if self.node and self.node_modules is None:
            lines.append("http-proxy and loadtest (npm packages)")
        return lines


def find_tools() -> Tools:
    """Find every tool, after trying to install what is not there."""
    _install_debian([name for name in DEBIAN_PACKAGES if _which(name) is None])
    return Tools(_which("wrk"), _which("nginx"), _which("node"), _node_modules())


def _which(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH)


def _install_debian(names: Sequence[str]) -> None:
    if not names or os.geteuid() != 0 or _which("apt-get") is None:
        return
    packages = [DEBIAN_PACKAGES[name] for name in names]
    print(f"installing the Debian packages {' '.join(packages)}", file=sys.stderr)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *command], env=environ, stdout=subprocess.DEVNULL, check=False)


def _node_modules() -> Path | None:
    """Return the folder with http-proxy and loadtest, installing them once for each version of package.json."""
    npm = _which("npm")
    if npm is None:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "greenproxy-bench"
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    installed = cache / "installed.json"  # written last: an install that was cut off is done again
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "package.json").write_text(wanted, encoding="utf-8")
        print(f"installing the npm packages http-proxy and loadtest into {cache}", file=sys.stderr)
        command = [
            npm,
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        if subprocess.run(command, cwd=cache, stdout=subprocess.DEVNULL, check=False).returncode:
            return None
        installed.write_text(wanted, encoding="utf-8")
    return cache / "node_modules"
