"""What all models of the configuration share: frozen, unknown keys refused, several findings at once.

Owns:       the base class, the way a field is declared, the way a model reports findings.
Leaves to:  problems.py (wording of pydantic's own findings, places in the file).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Loc = tuple[str | int, ...]  # keys and indexes from the top, or from a model, down
Finding = tuple[Loc, str]  # (where, what is wrong)

KEY = "[key]"  # last in a Loc, as pydantic has it: the key itself is meant, not its value
FINDING = "greenproxy_finding"


class Section(BaseModel):
    """A mapping of the file. Field names are the YAML's keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def setting(default: Any, description: str, **limits: Any) -> Any:
    """Declare a field; its default is written as in the file (`"30s"`) and `...` means needed."""
    return Field(default=default, validate_default=True, description=description, **limits)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise one ValidationError for all findings of a model's validator, each at its own key; none: return."""
    errors = [
        # The text travels in the context: pydantic would read {value} in a template as a field of its own.
        InitErrorDetails(type=PydanticCustomError(FINDING, "{text}", {"text": text}), loc=loc, input=None)
        for loc, text in findings
    ]
    if errors:
        raise ValidationError.from_exception_data("configuration", errors)
