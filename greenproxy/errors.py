"""The exception tree: what happened, who is to blame, and whether it may be tried again.

Status, blame and retry travel with the error, so one `except GreenproxyError` makes the reply.

    GreenproxyError
      ConfigError             a configuration that cannot be used: every problem, with its place
      StartError              the machine does not let us start: an address in use, a right that is missing
      WorkerBootError         a child that cannot start; its exit code stops the master
      SpoolFailed             500, a body could not be kept on disk
      DownstreamError         the client is to blame
        BadRequest            400, 404, 405, 408, 411, 413, 414, 417, 421, 431, 501, 505
        ClientClosed          499, logged and never sent
      UpstreamError           a server is to blame
        ConnectFailed         502, no byte was sent: any method may be retried
        UpstreamReset         502, closed before the first response byte
        UpstreamTimeout       504
        ConnectTimeout      504, no byte was sent: any method may be retried
        UpstreamProtocolError 502, it answered what is not HTTP
        NoServerAvailable     503
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["downstream", "upstream", "internal"]
Retry = Literal["never", "always", "if_idempotent"]


class GreenproxyError(Exception):
    """Base of all our errors.

    `reason` is a short snake_case word for logs and metrics; `detail` is a sentence for a person.
    """

    status: int = 500
    source: Source = "internal"
    retry: Retry = "never"
    reason: str = "internal_error"

    def __init__(self, detail: str = "", *, reason: str | None = None, status: int | None = None) -> None:
        super().__init__(detail or reason or self.reason)
        self.detail = detail
        if reason is not None:
            self.reason = reason
        if status is not None:
            self.status = status


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration file; `line` and `column` count from 1, 0 = unknown."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(GreenproxyError):
    """A configuration that cannot be used; carries all its problems, in file order."""

    reason = "bad_configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StartError(GreenproxyError):
    """The machine does not let us start; the detail names the address, file or right."""

    reason = "cannot_start"


class WorkerBootError(GreenproxyError):
    """A child could not start; the master stops instead of starting it again for ever."""

    reason = "worker_boot_failed"
    EXIT_CODE = 3


class SpoolFailed(GreenproxyError):
    """A body that must be kept for a while cannot be: the disk is full, or will not have it."""

    reason = "spool_failed"


class DownstreamError(GreenproxyError):
    """The client is to blame."""

    status = 400
    source = "downstream"
    reason = "bad_request"


class BadRequest(DownstreamError):
    """A request that is refused; the reply carries `status` and the connection closes."""


class ClientClosed(DownstreamError):
    """The client went away before its answer was complete; logged as 499, nothing is sent."""

    status = 499
    reason = "client_closed"


class UpstreamError(GreenproxyError):
    """A server is to blame."""

    status = 502
    source = "upstream"
    reason = "upstream_error"


class ConnectFailed(UpstreamError):
    """No connection, so no byte of the request was sent: any method may be tried again."""

    retry = "always"
    reason = "connect_failed"


class UpstreamReset(UpstreamError):
    """The connection ended after the request went out and before the first response byte."""

    retry = "if_idempotent"
    reason = "upstream_reset"


class UpstreamTimeout(UpstreamError):
    """The server did not answer in time."""

    status = 504
    retry: Retry = "if_idempotent"
    reason = "upstream_timeout"


class ConnectTimeout(UpstreamTimeout):
    """No connection in time, so no byte of the request was sent: any method may be tried again."""

    retry = "always"
    reason = "connect_timeout"


class UpstreamProtocolError(UpstreamError):
    """The server's answer is not HTTP, or not a framing that can be trusted."""

    reason = "upstream_protocol"


class NoServerAvailable(UpstreamError):
    """The upstream has no server that may be tried."""

    status = 503
    reason = "no_server"
