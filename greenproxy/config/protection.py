"""The models of what protects and relieves the servers: rate_limit, waf, cache.

Owns:       keys, types and defaults; the same models serve the whole proxy and one route.
Leaves to:  availability.py (what is not built yet), the rooms of these names (what it means).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from greenproxy.config.names import PathPrefix
from greenproxy.config.section import Section, setting
from greenproxy.config.values import Count, Duration, FilePath, Network, OrOff, Rate, Size, Text

_LIMIT_KEY = re.compile(r"(?:ip|(?:header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)\Z")
_RULE_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?\Z")


def _limit_key(value: str) -> str:
    if not _LIMIT_KEY.match(value):
        raise ValueError("{value} is none of ip, header:NAME, cookie:NAME")
    return value


def _rule_range(value: object) -> tuple[int, int]:
    match = _RULE_RANGE.match(str(value))
    if match is None:
        raise ValueError("{value} is not a rule number or a range such as 941000-941999")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ValueError("the range ends before it begins")
    return first, last


RuleRange = Annotated[
    tuple[int, int],
    BeforeValidator(_rule_range),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]{1,9}(-[0-9]{1,9})?$"}]}),
]


class Ban(Section):
    """Clients that keep hitting the limit are refused altogether for a while."""

    after: Annotated[Count, Field(ge=1)] = setting(..., "refusals")
    within: Annotated[Duration, Field(gt=0)] = setting(..., "counted over this time")
    for_: Annotated[Duration, Field(gt=0)] = setting(..., "how long", alias="for")


class RateLimit(Section):
    """A token bucket for each client."""

    rate: Rate = setting(..., "requests over time that refill the bucket")
    burst: Annotated[Count, Field(ge=1)] = setting(..., "requests at once that a full bucket allows")
    key: Annotated[str, AfterValidator(_limit_key)] = setting("ip", "whose bucket: ip, header:NAME or cookie:NAME")
    ban: Ban | None = setting(None, "refuse persistent offenders for a while")
    allow: tuple[Network, ...] = setting((), "networks without a limit")


class WafExclude(Section):
    """Rules that are not applied somewhere."""

    path: PathPrefix = setting("/", "below this path")
    rules: tuple[RuleRange, ...] = setting(..., "rule numbers and ranges of them", min_length=1)
    args: tuple[Text, ...] = setting((), "only for these arguments; for all by default")


class Waf(Section):
    """The web application firewall."""

    mode: Annotated[Literal["off", "detect", "block"], OrOff("off")] = setting("block", "what a match does")
    rules: tuple[Text, ...] = setting(("builtin",), "builtin and SecLang files, in this order")
    paranoia: Annotated[Count, Field(ge=1, le=4)] = setting(1, "paranoia level of the rules")
    threshold: Annotated[Count, Field(ge=1)] = setting(5, "anomaly score that blocks")
    body_limit: Size = setting("128KB", "how much of a body is looked at")
    on_error: Literal["block", "pass"] = setting("block", "what happens when the firewall itself fails")
    exclude: tuple[WafExclude, ...] = setting((), "exceptions")


class CacheStore(Section):
    """Where responses are kept; a route asks for it by `cache: true`."""

    path: FilePath | None = setting(None, "folder shared by the workers")
    size: Size = setting("1GB", "room on disk")
    memory: Size = setting("64MB", "room in memory, in each worker")
    default_ttl: Duration = setting("0s", "freshness of a response that says nothing about it")
