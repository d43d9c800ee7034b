"""The JSON Schema of the configuration, for editors and other programs: conf/greenproxy.schema.json.

`python -m greenproxy.config.jsonschema` writes it; a test keeps it in step with the models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from greenproxy.config.schema import Config

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "conf" / "greenproxy.schema.json"

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def schema_text() -> str:
    """The schema as the file holds it."""
    schema = Config.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_variables(schema)}
    schema["$defs"]["Variable"] = {**_VARIABLE, "description": "${NAME} or ${NAME:-default}, from the environment"}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _with_variables(schema: Any) -> Any:
    """Let `${VAR}` stand wherever a scalar that is more than any text stands; leave out pydantic's titles."""
    if isinstance(schema, list):
        return [_with_variables(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {
        name: value if name in ("default", "examples", "enum") else _with_variables(value)
        for name, value in schema.items()
        if name != "title"
    }
    scalar = schema.get("type") in ("integer", "number", "boolean") or "enum" in schema or "const" in schema
    if scalar or (schema.get("type") == "string" and "pattern" in schema):
        outside = {name: schema.pop(name) for name in ("default", "description") if name in schema}
        return {"anyOf": [schema, {"$ref": "#/$defs/Variable"}], **outside}
    return schema


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
