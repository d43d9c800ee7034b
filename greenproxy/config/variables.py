"""${VAR}, ${VAR:-default} and the escape $${ in the text of a configuration.

A variable may stand where `{` and `}` mean something to YAML: `{token: ${TOKEN:-}}`. So before the
text is parsed each one is covered by as many copies of one character of a private plane, which keeps
columns right and is plain text to YAML; afterwards the covers found in scalars are replaced. What an
environment variable holds is therefore never parsed as YAML: it cannot add keys.

Pure: the environment is passed in.
Invariant:  no value of a variable appears in a problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from greenproxy.config.document import DocumentError, Report

COVER_FIRST, COVER_LAST = 0x100000, 0x10FFFD  # Supplementary Private Use Area-B
MAX_VARIABLES = COVER_LAST - COVER_FIRST + 1

_REFERENCE = re.compile(r"""\$\$\{(?:[^{}\n"'\s]*\})?|\$\{[^{}\n]*\}""")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\}\Z")
_COVER = re.compile(r"([\U00100000-\U0010fffd])\1*")


class Variables:
    """The variables of one file."""

    def __init__(self, environ: Mapping[str, str], report: Report) -> None:
        self._environ = environ
        self._report = report
        self._references: list[str] = []

    def cover(self, text: str) -> str:
        """Cover every reference in `text`, which must hold no character of the covers' plane.

        Raises DocumentError when there are too many.
        """

        def covered(match: re.Match[str]) -> str:
            if len(self._references) >= MAX_VARIABLES:
                raise DocumentError(text.count("\n", 0, match.start()) + 1, 1, "too many variables")
            self._references.append(match[0])
            return chr(COVER_FIRST + len(self._references) - 1) * len(match[0])

        return _REFERENCE.sub(covered, text)

    def expand(self, text: str, line: int, column: int) -> tuple[str, bool]:
        """Replace the covers in a scalar; say whether it is what the file holds, without the environment."""
        if "${" in text:
            self._report(DocumentError(line, column, "a ${ without its } (a default cannot hold a variable)"))
        if not _COVER.search(text):
            return text, True
        literal = True

        def value(match: re.Match[str]) -> str:
            nonlocal literal
            reference = self._references[ord(match[1]) - COVER_FIRST]
            if reference.startswith("$$"):
                return reference[1:]
            literal = False
            return self._value(reference, line, column)

        return _COVER.sub(value, text), literal

    def _value(self, reference: str, line: int, column: int) -> str:
        match = _VARIABLE.match(reference)
        if match is None:
            self._report(DocumentError(line, column, "a variable is written ${NAME} or ${NAME:-default}"))
            return ""
        name, default = match[1], match[2]
        found = self._environ.get(name)
        if default is not None:
            return found or default  # as in a shell: `:-` also replaces an empty value
        if found is None:
            self._report(
                DocumentError(line, column, f"the environment has no variable {name}, and no default is given")
            )
            return ""
        return found
