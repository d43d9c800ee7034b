"""Load the wire cases: raw request bytes in a readable escaped form, with what must come of them.

A file: lines `# why, RFC section`, then `key: value` lines, then `---`, then the bytes. The bytes are the lines
after `---` joined without their line ends, with these escapes and no others:
`\\r \\n \\t \\\\`, `\\xHH`, and `\\{N*text\\}` for N times text. Anything that an editor could change unseen (tabs,
trailing blanks, bytes beyond ASCII, control bytes) must be escaped.

Keys, those marked + may repeat:
  status       final statuses, in order; alternatives as 400|501; `none`: closed without an answer
  upstream +   `METHOD target` of each request the upstream gets, in order; `cut`: at most a cut request
  has +        a field, `Name: value`, that the last of these has;  only +  the same, and no other of that name
  lacks +      a field name it does not have;  present +  a field name it has
  order        field names in the order and case in which they must come, others may stand between
  body         its body, escaped as the bytes are
  raw_has +    text that stands in its bytes;  raw_lacks +  text that does not
  answer_has + a field, `Name: value`, of the last answer;  interim: none  no 1xx may come
  methods      the methods of the requests, to read the answers by (all GET if not given)
  after        what becomes of the connection: `open` (a further request is served on it) or `closed`
  send         `half_close`: the client closes its half after the bytes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent

_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9a-f]{2})|\{([1-9][0-9]*)\*((?:[^\\]|\\[rnt\\]|\\x[0-9a-f]{2})+?)\\\})")
_PLAIN = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}
_ONCE = {"status", "order", "body", "interim", "methods", "after", "send"}
_MANY = {"upstream", "has", "only", "lacks", "present", "raw_has", "raw_lacks", "answer_has"}


@dataclass(frozen=True)
class Case:
    """One case: its name, why it is there, what is sent, what must come of it."""

    name: str
    why: str
    raw: bytes
    expected: dict[str, list[str]]

    def one(self, key: str, default: str = "") -> str:
        return self.expected.get(key, [default])[0]

    def all(self, key: str) -> list[str]:
        return self.expected.get(key, [])

    @property
    def statuses(self) -> list[set[str]]:
        return [set(word.split("|")) for word in self.one("status").split()]

    @property
    def methods(self) -> list[str]:
        return self.one("methods").split()


def load_folder(kind: str) -> list[Case]:
    """Load all cases of `accept` or `reject`, by name."""
    return [load_case(path) for path in sorted((FOLDER / kind).glob("*.http"))]


def load_case(path: Path) -> Case:
    """Load one file; ValueError names the file and what is wrong with it."""
    try:
        return parse_case(path.stem, path.read_text(encoding="ascii"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_case(name: str, text: str) -> Case:
    """Parse the text of a case, strictly: an unknown key or escape is an error, not a comment."""
    if re.search(r"[^\n\x20-\x7e]| \n", text) or not text.endswith("\n"):
        raise ValueError("a control byte, a trailing blank or no newline at the end; escape it")
    head, separator, data = text.partition("---\n")
    if not separator or not data:
        raise ValueError("no `---` line, or nothing after it")
    lines = head.splitlines()
    why = [line[2:] for line in lines if line.startswith("# ")]
    if not why or not all(line.startswith("# ") for line in lines[: len(why)]):
        raise ValueError("the file must begin with its reason in `# ` lines")
    expected: dict[str, list[str]] = {}
    for line in lines[len(why) :]:
        key, colon, value = line.partition(":")
        if not colon or key not in _ONCE | _MANY or (key in _ONCE and key in expected):
            raise ValueError(f"bad key line {line!r}")
        expected.setdefault(key, []).append(value.removeprefix(" "))
    if "status" not in expected:
        raise ValueError("no status")
    return Case(name, " ".join(why), unescape(data.replace("\n", "")), expected)


def unescape(text: str) -> bytes:
    """Turn the escaped form into bytes."""
    parts: list[bytes] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        parts += [_literal(text[at : match.start()]), _escaped(match)]
        at = match.end()
    return b"".join([*parts, _literal(text[at:])])


def _escaped(match: re.Match[str]) -> bytes:
    plain, code, count, repeated = match.groups()
    if plain:
        return _PLAIN[plain]
    if code:
        return bytes.fromhex(code)
    return unescape(repeated) * int(count)


def _literal(text: str) -> bytes:
    if "\\" in text:
        raise ValueError(f"unknown escape in {text!r}")
    return text.encode("ascii")
