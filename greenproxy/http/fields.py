"""Find, cut and read field lines in a validated header block.

Pure. A block is field lines as they came, each ended by CRLF, already proven to be well-formed.
It is never split into a dictionary: the few fields that matter are found in a lower-cased copy
and cut out, all others are passed on as they are, in their order and case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def finder(names: Iterable[bytes], prefix: bytes | None = None) -> re.Pattern[bytes]:
    """Compile a pattern that finds the fields `names` (lower-case) in the result of `searchable`.

    With `prefix` it also finds every field whose name begins so.
    """
    patterns = [re.escape(name) for name in names]
    if prefix is not None:
        patterns.append(re.escape(prefix) + rb"[^:\n]*")
    return re.compile(rb"\n(?:" + rb"|".join(patterns) + rb"):")


def searchable(block: bytes) -> bytes:
    """Return the block lower-cased, with a line end before it, so that every line begins with one."""
    return (b"\n" + block).lower()


def scan(
    block: bytes, lowered: bytes, pattern: re.Pattern[bytes], keep: frozenset[bytes] = frozenset()
) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Return the values of the fields that `pattern` finds, and where in `block` their lines are.

    Several lines of one name are joined by ", " (RFC 9110 5.3), so a second Content-Length or Host
    shows as a value that no longer is valid. Lines of the fields `keep` are not among the places.
    """
    values: dict[bytes, bytes] = {}
    spans: list[tuple[int, int]] = []
    for match in pattern.finditer(lowered):
        start, colon = match.span()
        name = lowered[start + 1 : colon - 1]
        end = lowered.find(b"\n", colon)
        value = block[colon - 1 : end - 2].strip(b" \t")
        values[name] = value if name not in values else values[name] + b", " + value
        if name not in keep:
            spans.append((start, end))
    return values, spans


def cut(block: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Return the block without the lines at `spans` (ascending)."""
    if len(spans) == 1:
        start, end = spans[0]
        return block[:start] + block[end:]
    kept = []
    position = 0
    for start, end in spans:
        kept.append(block[position:start])
        position = end
    kept.append(block[position:])
    return b"".join(kept)


def value_of(block: bytes, lowered: bytes, name: bytes) -> bytes | None:
    """Return the value of field `name` (lower-case), several lines joined by ", ", or None."""
    found = values_of(block, lowered, name)
    return b", ".join(found) if found else None


def values_of(block: bytes, lowered: bytes, name: bytes) -> list[bytes]:
    """Return the values of all lines of field `name` (lower-case)."""
    needle = b"\n" + name + b":"
    start = lowered.find(needle)
    found: list[bytes] = []
    while start >= 0:
        end = lowered.find(b"\n", start + 1)
        found.append(block[start + len(needle) - 1 : end - 2].strip(b" \t"))
        start = lowered.find(needle, end)
    return found


def without(block: bytes, names: Iterable[bytes]) -> bytes:
    """Return the block without the fields `names` (lower-case)."""
    gone = frozenset(names)  # a client may name thousands in Connection: no pattern is compiled of them
    lines = block.split(b"\r\n")[:-1]
    return b"".join([line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in gone])


def pairs(block: bytes) -> list[tuple[str, str]]:
    """Return the block as (name, value) pairs of native strings, in order (PEP 3333 headers)."""
    result = []
    for line in block.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        result.append((name, value.strip(" \t")))
    return result
