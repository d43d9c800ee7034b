"""A number of processes that may also be given as bounds, {min, max}."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, model_validator

from greenproxy.config.section import Section, refuse, setting
from greenproxy.config.values import Count


class Scale(Section):
    """Bounds between which a number of processes moves."""

    min: Annotated[Count, Field(ge=1)] = setting(..., "least")
    max: Annotated[Count, Field(ge=1)] = setting(..., "most")

    @model_validator(mode="after")
    def _check(self) -> Scale:
        if self.max < self.min:
            refuse([(("max",), f"must be at least min, which is {self.min}")])
        return self


def count_of(value: object, info: ValidationInfo) -> object:
    """A number as it is; bounds, once checked, as their least: so many are started."""
    if isinstance(value, dict):
        return Scale.model_validate(value, context=info.context).min
    return value
