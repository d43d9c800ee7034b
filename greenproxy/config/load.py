"""Read a configuration file: Config, or a ConfigError with every problem in file order.

Owns:       the file itself (its size and encoding), and the order of the checks.
Leaves to:  document.py, variables.py, schema.py, availability.py, references.py, problems.py.
Called by:  cli.py, and the master's short-lived child on a reload.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from pydantic import ValidationError

from greenproxy.config import document
from greenproxy.config.availability import unavailable
from greenproxy.config.document import DocumentError, Node
from greenproxy.config.problems import NEEDED, NO_VALUE, Places, validation_problems
from greenproxy.config.references import references
from greenproxy.config.schema import Config
from greenproxy.config.variables import Variables
from greenproxy.errors import ConfigError, Problem

MAX_FILE_BYTES = 1 << 20
_MAX_PROBLEMS = 200

# What YAML allows (YAML 1.2.2 5.1), without the private plane that variables.py covers references with.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U000fffff]")


def load_config(path: str) -> Config:
    """Read and check the file at `path`, with the variables of our environment.

    Raises ConfigError with all problems.
    """
    return parse_config(_read(path), path, os.environ)


def parse_config(text: str, file: str, environ: Mapping[str, str]) -> Config:
    """Check a configuration. `file` is its name in problems; relative paths start from its folder.

    Raises ConfigError with all problems.
    """
    problems: list[Problem] = []

    def report(error: DocumentError) -> None:
        problems.append(Problem(file, error.line, error.column, "", error.message))

    try:
        root = _document(text, environ, report)
    except DocumentError as error:
        report(error)
        raise _config_error(problems) from None
    config = _validated(root, file, problems)
    if config is None or problems:
        raise _config_error(problems)
    return config


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(path, 0, 0, "", f"cannot be read: {error.strerror}")]) from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError([Problem(repr(path), 0, 0, "", "cannot be read: not a path")]) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([Problem(path, 0, 0, "", f"larger than {MAX_FILE_BYTES >> 20} MB")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = data[: error.start]
        line, column = start.count(b"\n") + 1, error.start - start.rfind(b"\n")
        raise ConfigError([Problem(path, line, column, "", "not UTF-8 text")]) from None


def _document(text: str, environ: Mapping[str, str], report: document.Report) -> Node:
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_FILE_BYTES:
        raise DocumentError(0, 0, f"larger than {MAX_FILE_BYTES >> 20} MB")
    if bad := _FORBIDDEN.search(text):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        raise DocumentError(line, column, f"the character U+{ord(bad[0]):04X} is not allowed")
    variables = Variables(environ, report)
    root = document.compose(variables.cover(text), variables.expand, report)
    if root is None:
        raise DocumentError(0, 0, "the file is empty")
    return root


def _validated(root: Node, file: str, problems: list[Problem]) -> Config | None:
    """Run every check on the document; what they find is added to `problems`."""
    places, data = Places(file, root), document.to_data(root)
    folder = os.path.dirname(os.path.abspath(file))
    config = None
    try:
        config = Config.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        problems.extend(validation_problems(places, error, Config))
    problems.extend(places.problem(loc, NO_VALUE) for loc in document.empty_values(root))
    problems.extend(places.problem(*finding) for finding in references(data, folder))
    problems.extend(places.problem(*finding) for finding in unavailable(data))
    return config


def _config_error(problems: list[Problem]) -> ConfigError:
    """Bring problems into file order, one a place: what follows from a problem at the same place says nothing new.

    A key that is needed has the place of the mapping it is missing from, where other keys begin, too.
    """
    first: dict[tuple[int, int, str], Problem] = {}
    for problem in problems:
        placed = problem.line and problem.message != NEEDED
        first.setdefault((problem.line, problem.column, "" if placed else problem.path), problem)
    ordered = sorted(first.values(), key=lambda problem: (problem.line, problem.column))
    if len(ordered) > _MAX_PROBLEMS:
        rest = len(ordered) - _MAX_PROBLEMS
        last = ordered[_MAX_PROBLEMS]
        ordered[_MAX_PROBLEMS:] = [Problem(last.file, last.line, last.column, "", f"and {rest} more problems")]
    return ConfigError(ordered)
