"""The house keeps its floor plan: who may import whom, and what decides without touching the world.

Every rule is a function from the imports of a package to complaints `file:line: what is wrong`, so that
the same function judges our package and the broken copies that show it can complain.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "greenproxy"

# From the top of the house down. Imports go down only; rooms on one floor do not import each other.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("master", "worker", "admin"),
    ("chain", "listener"),
    ("waf", "ratelimit", "cache", "proxy", "files", "telemetry"),
    ("health",),
    ("balancing", "routing"),
    ("shm", "net"),
    ("http",),
    ("config",),
    ("errors",),
    ("__init__",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# What one room may have of another on its floor.
SAME_FLOOR = {
    ("worker", "greenproxy.master.heritage"),  # what a child receives across fork
    ("admin", "greenproxy.master.heritage"),
    ("admin", "greenproxy.worker.helper"),  # the life of a child that is no worker
}
# The layers of a route's chain: wired in one place, which decides their order.
LAYERS = {"waf", "ratelimit", "cache", "proxy", "files"}
WIRING = "chain/build.py"

# Modules that decide, by DESIGN. Any other may join them by saying "Pure" in its docstring.
PURE = (
    "balancing/*.py",
    "health/state.py",
    "http/body.py",
    "http/exchange.py",
    "http/fields.py",
    "http/forwarding.py",
    "http/grammar.py",
    "http/head.py",
    "http/replies.py",
    "http/target.py",
    "master/plan.py",
    "proxy/retry.py",
    "routing/*.py",
    "telemetry/fields.py",
    "files/conditional.py",
)
# No socket, clock, chance, log, file or process. `now` and random numbers are passed in.
PURE_MAY_IMPORT = {
    *("__future__", "abc", "base64", "binascii", "bisect", "collections", "collections.abc", "dataclasses", "datetime"),
    *("difflib", "email.utils", "enum", "functools", "hashlib", "heapq", "html", "http.HTTPStatus", "ipaddress"),
    *("itertools", "math", "operator", "re", "string", "struct", "types", "typing", "urllib.parse"),
    *("pydantic", "pydantic_core", "werkzeug.datastructures", "werkzeug.http"),
}

UNKNOWN_TO_MASTER = ("gevent", "greenlet", "urllib3", "werkzeug", "greenproxy.worker.worker", "greenproxy.chain")


@dataclass(frozen=True)
class Import:
    """One name that one file imports. `deferred`: only when a function runs."""

    file: str
    line: int
    target: str
    deferred: bool

    @property
    def room(self) -> str:
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def ours(self) -> bool:
        return self.target.split(".")[0] == "greenproxy"

    @property
    def target_room(self) -> str:
        """The room of ours that is imported."""
        return [*self.target.split("."), "__init__"][1]

    def complaint(self, why: str) -> str:
        return f"greenproxy/{self.file}:{self.line}: imports {self.target}: {why}"


@dataclass(frozen=True)
class Tree:
    """A package's folder and its parsed modules, by path relative to the folder."""

    package: Path
    modules: dict[str, ast.Module]

    @classmethod
    def read(cls, package: Path) -> Tree:
        files = sorted(package.rglob("*.py"))
        return cls(package, {f.relative_to(package).as_posix(): ast.parse(f.read_text("utf-8"), f) for f in files})

    def imports(self) -> Iterator[Import]:
        for file, module in self.modules.items():
            yield from self._imports_below(file, module, deferred=False)

    def _imports_below(self, file: str, node: ast.AST, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(file, child.lineno, alias.name, deferred)
            elif isinstance(child, ast.ImportFrom):
                origin = self._origin(file, child)
                for alias in child.names:
                    yield Import(file, child.lineno, self._narrowed(origin, alias.name), deferred)
            else:
                inside = deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports_below(file, child, inside)

    def _origin(self, file: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        folders = ["greenproxy", *file.split("/")[:-1]]
        return ".".join([*folders[: len(folders) - node.level + 1], *([node.module] if node.module else [])])

    def _narrowed(self, origin: str, name: str) -> str:
        """The module that `from origin import name` needs: a submodule of ours if there is one."""
        if origin == "http":
            return f"{origin}.{name}"
        parts = origin.split(".")
        if parts[0] != "greenproxy":
            return origin
        place = self.package.joinpath(*parts[1:], name)
        return f"{origin}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else origin


def imports_that_go_up(tree: Tree) -> Iterator[str]:
    for found in tree.imports():
        if not found.ours or found.room == found.target_room:
            continue
        if found.room not in FLOOR_OF or found.target_room not in FLOOR_OF:
            yield found.complaint("a room that is not in FLOORS")
        elif FLOOR_OF[found.room] > FLOOR_OF[found.target_room]:
            yield found.complaint(f"{found.target_room} is above {found.room}")
        elif FLOOR_OF[found.room] == FLOOR_OF[found.target_room] and not _allowed_on_one_floor(found):
            yield found.complaint(f"{found.room} and {found.target_room} are on one floor")


def _allowed_on_one_floor(found: Import) -> bool:
    forks = found.room == "master" and found.deferred  # in the forked child only
    return forks or found.file == WIRING or (found.room, found.target) in SAME_FLOOR


def layers_wired_elsewhere(tree: Tree) -> Iterator[str]:
    for found in tree.imports():
        if found.ours and found.room in ("chain", "listener") and found.target_room in LAYERS and found.file != WIRING:
            yield found.complaint(f"only {WIRING} wires {found.target_room}")


def impure_imports(tree: Tree) -> Iterator[str]:
    pure = pure_modules(tree)
    for found in tree.imports():
        if found.file not in pure:
            continue
        if found.ours:
            if found.target_room not in ("config", "errors") and not _is_pure(found.target, pure):
                yield found.complaint("pure code, but that is not")
        elif found.target not in PURE_MAY_IMPORT:
            yield found.complaint("pure code knows no socket, clock, chance, log, file or process")


def pure_modules(tree: Tree) -> set[str]:
    listed = {f.relative_to(tree.package).as_posix() for pattern in PURE for f in tree.package.glob(pattern)}
    return listed | {file for file, module in tree.modules.items() if _says_pure(module)}


def _says_pure(module: ast.Module) -> bool:
    return any(line.startswith("Pure") for line in (ast.get_docstring(module) or "").splitlines())


def _is_pure(target: str, pure: set[str]) -> bool:
    path = "/".join(target.split(".")[1:])
    return f"{path}.py" in pure or f"{path}/__init__.py" in pure


def urllib3_elsewhere(tree: Tree) -> Iterator[str]:
    for found in tree.imports():
        if found.target.split(".")[0] == "urllib3" and found.file != "proxy/transport.py":
            yield found.complaint("only proxy/transport.py does")


def apphost_imports(tree: Tree) -> Iterator[str]:
    for found in tree.imports():
        if found.file == "worker/apphost.py" and found.target.split(".")[0] not in sys.stdlib_module_names:
            yield found.complaint("apphost.py runs in foreign environments, with the standard library alone")


RULES = (imports_that_go_up, layers_wired_elsewhere, impure_imports, urllib3_elsewhere, apphost_imports)
Rule = Callable[[Tree], Iterator[str]]


def known_to_master(package: Path) -> list[str]:
    """What of UNKNOWN_TO_MASTER a fresh interpreter has loaded after importing all of the master."""
    code = f"""
import importlib, pkgutil, sys
import greenproxy.master, greenproxy.cli
for module in pkgutil.walk_packages(greenproxy.master.__path__, "greenproxy.master."):
    importlib.import_module(module.name)
print(*[name for name in {UNKNOWN_TO_MASTER!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule: Rule) -> None:
    complaints = list(dict.fromkeys(rule(Tree.read(PACKAGE))))
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("pattern", PURE)
def test_pure_module_of_the_list_exists(pattern: str) -> None:
    assert list(PACKAGE.glob(pattern)), f"no greenproxy/{pattern}: correct PURE"


def test_master_knows_neither_gevent_nor_what_speaks_to_clients() -> None:
    assert known_to_master(PACKAGE) == []


def test_apphost_is_python_3_8() -> None:
    file = PACKAGE / "worker" / "apphost.py"
    ast.parse(file.read_text("utf-8"), file, feature_version=(3, 8))


# The rules themselves, shown to complain: (file, line put at its end, rule, part of the complaint).
BROKEN = [
    ("errors.py", "import greenproxy.config.schema", imports_that_go_up, "config is above errors"),
    ("shm/segment.py", "from greenproxy.health import table", imports_that_go_up, "health is above shm"),
    ("http/head.py", "from greenproxy.shm.segment import Segment", imports_that_go_up, "shm is above http"),
    ("http/head.py", "from ..shm import segment", imports_that_go_up, "shm is above http"),
    ("config/load.py", "def late():\n    import greenproxy.http.head", imports_that_go_up, "http is above config"),
    ("routing/table.py", "from greenproxy.balancing import policies", imports_that_go_up, "on one floor"),
    ("files/app.py", "from greenproxy.telemetry import logs", imports_that_go_up, "on one floor"),
    ("proxy/retry.py", "from greenproxy.files.app import FilesApp", imports_that_go_up, "on one floor"),
    ("listener/server.py", "import greenproxy.chain.build", imports_that_go_up, "on one floor"),
    ("master/plan.py", "import greenproxy.worker.worker", imports_that_go_up, "on one floor"),
    ("worker/worker.py", "from greenproxy.master import plan", imports_that_go_up, "on one floor"),
    ("errors.py", "import greenproxy.attic", imports_that_go_up, "not in FLOORS"),
    (
        "listener/server.py",
        "from greenproxy.proxy import retry",
        layers_wired_elsewhere,
        "only chain/build.py wires proxy",
    ),
    ("balancing/balancer.py", "import time", impure_imports, "pure code"),
    ("routing/split.py", "from random import random", impure_imports, "pure code"),
    ("http/replies.py", "from http.client import HTTPConnection", impure_imports, "pure code"),
    ("http/replies.py", "from http import client", impure_imports, "pure code"),
    ("health/state.py", "def f():\n    import logging", impure_imports, "pure code"),
    ("telemetry/fields.py", "from greenproxy.telemetry import logs", impure_imports, "pure code, but that is not"),
    ("listener/server.py", "from urllib3.util import Retry", urllib3_elsewhere, "only proxy/transport.py"),
    ("worker/apphost.py", "import gevent", apphost_imports, "standard library alone"),
    ("worker/apphost.py", "from greenproxy import errors", apphost_imports, "standard library alone"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "greenproxy", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize(("file", "code", "rule", "complaint"), BROKEN, ids=lambda value: str(value)[:40])
def test_broken_rule_is_found_with_its_place(copy: Path, file: str, code: str, rule: Rule, complaint: str) -> None:
    broken = copy / file
    text = f"{broken.read_text('utf-8')}\n{code}\n"
    broken.write_text(text, "utf-8")
    place = f"greenproxy/{file}:{len(text.splitlines())}: "
    assert [found for found in rule(Tree.read(copy)) if found.startswith(place) and complaint in found]


def test_master_that_loads_gevent_in_passing_is_found(copy: Path) -> None:
    with (copy / "shm" / "segment.py").open("a") as file:
        file.write("\nimport gevent\n")
    assert known_to_master(copy) == ["gevent", "greenlet"]


def test_master_may_import_the_worker_in_the_forked_child_only(copy: Path) -> None:
    with (copy / "master" / "plan.py").open("a") as file:
        file.write("\ndef child():\n    import greenproxy.worker.worker\n")
    assert not [found for found in imports_that_go_up(Tree.read(copy)) if "master/plan.py" in found]
