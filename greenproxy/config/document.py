"""YAML text -> plain values that remember where they stood.

YAML is taken in the spirit of version 1.2, so that a file means what it looks like: `on` is a word,
017 is no octal number, 1:30 is not 90, a date is text. JSON is valid too. Keys are always text.

Owns:       syntax, scalar types, duplicate keys, anchors and merge keys, the bounds of a document.
Leaves to:  variables.py (${VAR}), problems.py (places of findings).
Invariant:  a problem never quotes a value. Work is bounded: depth, nodes with aliases counted as copies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import yaml

MAX_DEPTH = 32
MAX_NODES = 100_000

# libyaml when PyYAML was built with it: 10 times faster.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_STRING_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_MERGE = "<<"

# YAML 1.2.2 10.3.2, the core schema, without .inf, .nan and leading zeros, which YAML 1.1 reads as octal.
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})\Z")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]{1,16}\Z|0o[0-7]{1,21}\Z")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,2})?\Z")


class DocumentError(Exception):
    """What is wrong with the text, at a line and column counted from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value; `literal` when the file itself holds it, not the environment."""

    value: object
    line: int
    column: int
    literal: bool = True
    size: int = 1


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: list[Node]
    line: int
    column: int
    size: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in file order, each with its own place and its value."""

    entries: dict[str, tuple[Scalar, Node]]
    line: int
    column: int
    size: int


Node = Scalar | Sequence | Mapping
"""`size` counts the node and all below it, aliases as copies."""

Report = Callable[[DocumentError], None]

Expand = Callable[[str, int, int], tuple[str, bool]]
"""(text, line, column) -> (text with its variables replaced, was it literal?)"""


def type_of_plain(text: str) -> object:
    """Give an unquoted scalar its type."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _HEX_OR_OCTAL.match(text):
        return int(text, 0)
    return float(text) if _FLOAT.match(text) else text


def to_data(node: Node) -> object:
    """The node as dict, list and scalars."""
    if isinstance(node, Mapping):
        return {name: to_data(value) for name, (_, value) in node.entries.items()}
    if isinstance(node, Sequence):
        return [to_data(item) for item in node.items]
    return node.value


def empty_values(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Find the keys and items that the file itself leaves without a value.

    They mean nothing: a section whose lines are all commented out shall not switch something off in silence.
    """
    if isinstance(node, Scalar):
        if node.value is None and node.literal:
            yield path
        return
    if isinstance(node, Mapping):
        for name, (_, value) in node.entries.items():
            yield from empty_values(value, (*path, name))
    else:
        for index, item in enumerate(node.items):
            yield from empty_values(item, (*path, index))


def compose(text: str, expand: Expand, report: Report) -> Node | None:
    """Read the only document of `text`; None when it is empty.

    `report` receives what does not end the reading (duplicate keys, unknown tags).

    Raises DocumentError when the text is no YAML, or more than the bounds allow.
    """
    return _Composer(text, expand, report).document()


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


@dataclass(slots=True)
class _Composer:
    text: str
    expand: Expand
    report: Report
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None while the node is being read
    nodes: int = 0

    def document(self) -> Node | None:
        events = self._events()
        root = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._error(event, "only one document is allowed in a file")
                root = self._node(next(events), events, 0)
        return root

    def _events(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error) from None

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> DocumentError:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = self.text.split("\n")
        if line < len(lines) and lines[line][column : column + 1] == "\t":
            return DocumentError(line + 1, column + 1, "a tab cannot indent YAML; use spaces")
        # Names from the file are cut off: behind a misplaced * or ! could stand a part of a secret.
        problem = re.sub(r"\b(tag handle|tag|alias|anchor)\b.*", r"\1", error.problem or "not YAML", flags=re.DOTALL)
        return DocumentError(line + 1, column + 1, f"not valid YAML: {problem}")

    @staticmethod
    def _error(event: yaml.Event, message: str) -> DocumentError:
        return DocumentError(*_place(event), message)

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._count(event, 1)
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, events, depth)
        else:
            node = self._mapping(event, events, depth)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def _count(self, event: yaml.Event, size: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES} values (an alias counts as often as it is used)")

    def _alias(self, event: yaml.AliasEvent) -> Node:
        if event.anchor not in self.anchors:
            raise self._error(event, "this alias has no anchor before it")
        node = self.anchors[event.anchor]
        if node is None:
            raise self._error(event, "this alias stands inside its own anchor")
        self._count(event, node.size)
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        line, column = _place(event)
        plain = event.implicit[0]
        self._refuse_tag(event)
        text, literal = self.expand(event.value, line, column)
        return Scalar(type_of_plain(text) if plain else text, line, column, literal)

    def _sequence(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Sequence:
        self._refuse_tag(event)
        before = self.nodes
        items: list[Node] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(self._node(item, events, depth + 1))
        return Sequence(items, *_place(event), 1 + self.nodes - before)

    def _mapping(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Mapping:
        self._refuse_tag(event)
        before = self.nodes
        entries: dict[str, tuple[Scalar, Node]] = {}
        merged: list[Mapping] = []
        while not isinstance(item := next(events), yaml.MappingEndEvent):
            key = self._key(item)
            value = self._node(next(events), events, depth + 1)
            name = str(key.value)
            if name == _MERGE and isinstance(item, yaml.ScalarEvent) and item.implicit[0]:
                merged.extend(self._merged(value))
            elif name in entries:
                first = entries[name][0].line
                self.report(DocumentError(key.line, key.column, f"this key is given twice; first in line {first}"))
            else:
                entries[name] = (key, value)
        for mapping in merged:  # what stands in the mapping itself wins, then the first merged
            for name, entry in mapping.entries.items():
                entries.setdefault(name, entry)
        return Mapping(entries, *_place(event), 1 + self.nodes - before)

    def _key(self, event: yaml.Event) -> Scalar:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event, "a key must be a word")
        self._count(event, 1)
        self._refuse_tag(event)
        line, column = _place(event)
        text, literal = self.expand(event.value, line, column)
        return Scalar(text, line, column, literal)

    def _merged(self, node: Node) -> list[Mapping]:
        parts = node.items if isinstance(node, Sequence) else [node]
        mappings = [part for part in parts if isinstance(part, Mapping)]
        if len(mappings) != len(parts):
            raise DocumentError(node.line, node.column, "<< takes a mapping or a list of mappings")
        return mappings

    def _refuse_tag(self, event: yaml.Event) -> None:
        tag: str | None = getattr(event, "tag", None)
        if tag is not None and tag not in _STRING_TAGS:
            self.report(self._error(event, "tags have no meaning here"))
