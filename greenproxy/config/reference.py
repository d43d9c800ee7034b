"""The reference of the configuration for people: docs/configuration.md.

`python -m greenproxy.config.reference` writes it from the models' descriptions and defaults; a test
keeps it in step. The schema is the one for editors too (jsonschema.py), so the two cannot differ.

Owns:       the order and the form of the pages' tables.
Leaves to:  the models (names, defaults, descriptions), availability.py (what is not built yet).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greenproxy.config.availability import NOT_AVAILABLE
from greenproxy.config.schema import Config

REFERENCE_FILE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_HEAD = """\
# Configuration

Every key of the file, with its default. Written by `python -m greenproxy.config.reference`: change the models, not
this page. `./run.sh check CONFIG` reads a file and says what is wrong with it; editors find the same rules in
[greenproxy.schema.json](../conf/greenproxy.schema.json). [prod.yaml](../conf/prod.yaml) is an example to copy.

- YAML 1.2 or JSON, in UTF-8. A key that is not listed here, or stands twice, or has no value, is refused.
- Durations: `200ms`, `5s`, `1m`, `1h`, `2d`; a number without a unit is refused.
- Sizes: `64KB`, `10MB`, `1GB` (K is 1024), or a number of bytes.
- `${NAME}` and `${NAME:-default}` come from the environment, in any value; `$${` is a literal `${`.
- Addresses: `127.0.0.1:8000`, `"[::1]:8000"`, `unix:/run/app.sock`. Relative paths start from the file's folder.
- An upstream with `wsgi` has `health_check: {interval: 1s}` and `buffer: {request: 1MB, response: 1MB}`, unless it says
  otherwise.
- What is marked *not available yet* is known and refused, never ignored.

In headings, `*` stands for a name or a place in a list.
"""


def reference_text() -> str:
    """The page as the file holds it."""
    schema = Config.model_json_schema(by_alias=True)
    return "\n".join([_HEAD, *_section(schema, schema["$defs"], ())])


def _section(section: dict[str, Any], models: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The table of one mapping, then those of the mappings in it."""
    # Deeper headings than the fourth look like text.
    level = min(2 + sum(step != "*" for step in path[1:]), 4)
    dotted = ".".join(path)
    yield f"{'#' * level} {f'`{dotted}`' if path else 'The top of the file'}\n"
    yield f"{section['description']}\n"
    yield "| key | default | |\n| --- | --- | --- |"
    for name, field in section["properties"].items():
        yield _row(name, field, ".".join((*path, name)), needed=name in section.get("required", ()))
    yield ""
    for name, field in section["properties"].items():
        found = _model_in(field)
        if found is not None and not _is_missing(field, ".".join((*path, name))):
            model, steps = found
            yield from _section(models[model], models, (*path, name, *steps))


def _row(name: str, field: dict[str, Any], path: str, *, needed: bool) -> str:
    meaning = field["description"].replace("*", r"\*")
    if _is_missing(field, path):
        return f"| `{name}` | | {meaning}; *not available yet* |"
    words = _words(field)
    refused = NOT_AVAILABLE.get(path)
    if built := [word for word in words if refused is None or not refused(word)]:
        meaning += f": {_listed(built)}"
    if missing := [word for word in words if word not in built]:
        meaning += f"; *not available yet:* {_listed(missing)}"
    elif refused is not None:
        meaning += "; *{min, max} is not available yet*"
    if _may_be_off(field) and "off" not in meaning:
        meaning += "; or `off`"
    return f"| `{name}` | {'**needed**' if needed else _default(field)} | {meaning} |"


def _is_missing(field: dict[str, Any], path: str) -> bool:
    """Is the whole key refused? Then its default would be too, if it were written down."""
    return path in NOT_AVAILABLE and NOT_AVAILABLE[path](field.get("default"))


def _listed(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default in ({}, [], ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _words(field: dict[str, Any]) -> list[str]:
    """The words that may stand here, if there is a list of them; true and false need no list."""
    return list(field["enum"]) if "enum" in field and field.get("type") == "string" else []


def _may_be_off(field: dict[str, Any]) -> bool:
    return any(option.get("enum") == ["off", "no", False] for option in field.get("anyOf", ()))


def _model_in(field: dict[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """The model that describes what stands here, and what of its path has no name of its own."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2], ()
    for below in ("items", "additionalProperties"):
        if isinstance(field.get(below), dict) and "$ref" in field[below]:
            return field[below]["$ref"].rpartition("/")[2], ("*",)
    return next((found for option in field.get("anyOf", ()) if (found := _model_in(option)) is not None), None)


if __name__ == "__main__":
    REFERENCE_FILE.write_text(reference_text(), encoding="utf-8")
