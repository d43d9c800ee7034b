"""Findings -> problems: where in the file, which key, in words a person understands.

Owns:       the wording of pydantic's findings, places, paths, and which values may be shown.
Leaves to:  the models and checks (what is wrong).
Invariant:  a value is shown only if it stands literally in the file and its path is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from greenproxy.config.document import Mapping, Node, Scalar, Sequence
from greenproxy.config.section import FINDING, KEY, Loc
from greenproxy.config.suggest import did_you_mean
from greenproxy.errors import Problem

# Below these keys stand tokens, passwords and keys; a value there is never shown, whatever is wrong with it.
_SECRET_KEYS = frozenset(("token", "key", "env", "set", "headers", "cookies"))
_SECRET_PATH = "admin"  # `admin: TOKEN` is an easy mistake; what stands below admin may be shown
_SHOWN = 60
_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")

NEEDED = "is needed"
NO_VALUE = "needs a value; leave the key out for its default"

_WORDING = {
    "missing": NEEDED,
    "extra_forbidden": "unknown key",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "too_short": "must not be empty",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
}


class Places:
    """The places of one file's keys and values."""

    def __init__(self, file: str, root: Node) -> None:
        self.file = file
        self.root = root

    def problem(self, loc: Loc, text: str) -> Problem:
        """Give a finding the place of the value it is about, or of the key when `loc` ends in KEY."""
        node: Node = self.root
        place, key, path, may_show = node, node, "", True
        for part in loc:
            child = _child(node, part)
            if child is None and part == KEY:
                place, may_show = key, True  # the path names it anyway
                break
            path += _path_part(part, path)
            may_show = may_show and part not in _SECRET_KEYS
            if child is None:
                break
            key, node = child
            place = node
        return Problem(
            self.file,
            place.line,
            place.column,
            path,
            text.replace("{value}", _show(place, may_show and path != _SECRET_PATH)),
        )


def _child(node: Node, part: str | int) -> tuple[Node, Node] | None:
    """The key and the value at `part` below `node`; an item of a list is its own key."""
    if isinstance(node, Mapping) and isinstance(part, str):
        return node.entries.get(part)
    if isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
        return node.items[part], node.items[part]
    return None


def _path_part(name: str | int, path: str) -> str:
    if isinstance(name, int):
        return f"[{name}]"
    if _SIMPLE_KEY.match(name):
        return f".{name}" if path else name
    return f"[{name[:80]!r}]"


def _show(node: Node, shown: bool) -> str:
    if not shown or not isinstance(node, Scalar) or not node.literal:
        return "the value"
    text = str(node.value)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def validation_problems(places: Places, error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """Place and word what pydantic found while it validated `model`."""
    for details in error.errors(include_url=False, include_input=True):
        if details["type"] == "too_short" and details["input"]:
            continue  # pydantic counts only the good items of a list
        loc = details["loc"]
        yield places.problem((*loc, KEY) if details["type"] == "extra_forbidden" else loc, _text(details, model))


def _text(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if details["input"] is None and kind not in ("missing", "extra_forbidden", FINDING):
        return NO_VALUE
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return _not_one_of(context["expected"], details["input"])
    if kind == "extra_forbidden":
        return _WORDING[kind] + did_you_mean(str(details["loc"][-1]), _known_keys(model, details["loc"][:-1]))
    if kind in _WORDING:
        return _WORDING[kind].format(**context)
    return details["msg"]


def _not_one_of(expected: str, value: object) -> str:
    words = re.findall(r"'([^']*)'", expected)
    return f"{{value}} is none of {', '.join(words)}{did_you_mean(str(value), words)}"


def _known_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys of the model that stands at `loc` below `model`."""
    kind: Any = model
    for part in loc:
        kind = _step(_model_or_container(kind), part)
    kind = _model_or_container(kind)
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return []
    return [field.alias or name for name, field in kind.model_fields.items()]


def _step(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part == (field.alias or name):
                return field.annotation
        return None
    arguments = get_args(kind)
    return (arguments[1] if get_origin(kind) is dict else arguments[0]) if arguments else None


def _model_or_container(kind: Any) -> Any:
    """Take `Annotated` and `| None` off a type."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(argument for argument in get_args(kind) if argument is not type(None))
    return kind
