"""The models under `routes`: what a request must look like, and where it goes.

Owns:       keys, types and defaults of one route, and what its keys say about each other.
Leaves to:  references.py (the upstreams it names), routing/table.py (the matching).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from greenproxy.config.names import (
    CookieValue,
    FieldValue,
    HostPattern,
    Method,
    PathPrefix,
    Token,
    UpstreamName,
    header_findings,
)
from greenproxy.config.protection import RateLimit, Waf
from greenproxy.config.section import KEY, Finding, Section, refuse, setting
from greenproxy.config.values import Count, ExistingFile, ExistingFolder, Flag, OrOff, Text

_ERROR_STATUS = re.compile(r"[45](?:[0-9][0-9]|xx)\Z")
_NEEDS_LOCATION = frozenset((301, 302, 303, 307, 308))
_NO_BODY = frozenset((204, 205, 304))  # RFC 9110 15.3.5, 15.3.6, 15.4.5
_TARGETS = ("upstream", "split", "respond", "files")


def _error_status(value: str) -> str:
    if not _ERROR_STATUS.match(value):
        raise ValueError("is not a status or a class of them, such as 502 or 5xx")
    return value


def _index_name(value: str) -> str:
    if not value or "/" in value or "\0" in value or value.startswith("."):
        raise ValueError("{value} is not the name of a file, such as index.html")
    return value


class Match(Section):
    """Conditions that must all hold; none = every request."""

    host: HostPattern | None = setting(None, "exact, or *.example.com for any depth below")
    path: PathPrefix | None = setting(None, "prefix, on segment boundaries")
    methods: tuple[Method, ...] | None = setting(None, "methods, in capitals", min_length=1)
    headers: dict[Token, FieldValue] = setting({}, "header fields and their exact values")
    cookies: dict[Token, CookieValue] = setting({}, "cookies and their exact values")


class HeaderEdit(Section):
    """Header fields put in or taken out."""

    set: dict[Token, FieldValue] = setting({}, "fields that replace what was there")
    remove: tuple[Token, ...] = setting((), "fields taken out")

    def findings(self, side: str, *, may_set_host: bool = False) -> Iterator[Finding]:
        """Find the fields that may not be edited; `side` is the key that this section stands at."""
        set_here = (((side, "set", name, KEY), name) for name in self.set)
        yield from header_findings(set_here, may_set_host=may_set_host)
        yield from header_findings(((side, "remove", index), name) for index, name in enumerate(self.remove))


class RouteHeaders(Section):
    """Edits of the request on its way to a server, and of the response on its way to the client."""

    request: HeaderEdit = setting({}, "towards the server")
    response: HeaderEdit = setting({}, "towards the client")

    @model_validator(mode="after")
    def _check(self) -> RouteHeaders:
        refuse([*self.request.findings("request", may_set_host=True), *self.response.findings("response")])
        return self


class Respond(Section):
    """An answer of our own."""

    status: Annotated[Count, Field(ge=200, le=599)] = setting(200, "status of the answer")
    location: FieldValue | None = setting(None, "where a redirect leads")
    body: Text = setting("", "text of the answer")
    content_type: FieldValue = setting("text/plain; charset=utf-8", "type of the body")
    headers: dict[Token, FieldValue] = setting({}, "more header fields")

    @model_validator(mode="after")
    def _check(self) -> Respond:
        refuse(self._findings())
        return self

    def _findings(self) -> Iterator[Finding]:
        if self.status in _NEEDS_LOCATION and not self.location:
            yield ("status",), f"a redirect ({self.status}) needs a location"
        if self.body and self.status in _NO_BODY:
            yield ("body",), f"an answer {self.status} has no body"
        yield from header_findings((("headers", name, KEY), name) for name in self.headers)
        for name in self.headers:
            if name.lower() in ("location", "content-type"):
                yield ("headers", name, KEY), f"{name} has a key of its own: {name.lower().replace('-', '_')}"


class Files(Section):
    """Static files."""

    root: ExistingFolder = setting(..., "folder of the files; nothing outside it is ever served")
    index: Annotated[str, AfterValidator(_index_name)] = setting("index.html", "file that stands for its folder")


class Route(Section):
    """One route; the first whose `match` holds takes the request."""

    match: Match = setting({}, "which requests; every one by default")
    upstream: UpstreamName | None = setting(None, "where they go")
    split: dict[UpstreamName, Annotated[Count, Field(ge=1, le=1000)]] | None = setting(
        None, "several upstreams and their weights", min_length=1
    )
    split_cookie: Token = setting("gp_split", "cookie that keeps a client on its side of the split")
    respond: Respond | None = setting(None, "an answer of our own")
    files: Files | None = setting(None, "static files")
    strip_prefix: Flag = setting(False, "take match.path off the path; X-Forwarded-Prefix says what was taken")
    headers: RouteHeaders = setting({}, "header fields set and removed")
    error_pages: dict[Annotated[str, AfterValidator(_error_status)], ExistingFile] = setting(
        {}, "status or class (502, 5xx) -> file sent in place of our own error text"
    )
    rate_limit: Annotated[RateLimit | None, OrOff()] = setting(None, "in place of the proxy's own")
    waf: Annotated[Waf | None, OrOff()] = setting(None, "in place of the proxy's own")
    cache: Flag = setting(False, "keep responses")

    @model_validator(mode="after")
    def _check(self) -> Route:
        refuse(self._findings())
        return self

    def _findings(self) -> Iterator[Finding]:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if not given:
            yield (), "a route needs one of upstream, split, respond, files"
        for name in given[1:]:
            yield (
                (name,),
                f"a route has exactly one of upstream, split, respond, files, and this one has {given[0]} too",
            )
        if self.strip_prefix and self.match.path is None:
            yield ("strip_prefix",), "needs a match.path to strip"
        if "split_cookie" in self.model_fields_set and self.split is None:
            yield ("split_cookie",), "means nothing without split"
