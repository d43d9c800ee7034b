"""The servers of hosted applications: one Unix socket for each process.

Pure. Called by the master before its first fork, so that everybody else only looks at `upstream.servers`.
"""

from __future__ import annotations

from greenproxy.config.address import Address
from greenproxy.config.schema import Config, HostedApp, UpstreamServer
from greenproxy.errors import ConfigError, Problem


def with_hosted_servers(config: Config, run_dir: str) -> Config:
    """Return `config` with the servers of its hosted upstreams filled in: `unix:{run_dir}/{name}-{index}.sock`.

    Raises ConfigError when `run_dir` is too deep for the path of a Unix socket.
    """
    upstreams = dict(config.upstreams)
    for name, upstream in upstreams.items():
        if upstream.wsgi is not None:
            servers = _servers(name, upstream.wsgi, run_dir)
            upstreams[name] = upstream.model_copy(update={"servers": servers})
    return config.model_copy(update={"upstreams": upstreams})


def _servers(name: str, app: HostedApp, run_dir: str) -> tuple[UpstreamServer, ...]:
    weights = app.weights or (1,) * app.processes
    return tuple(
        # Built, not validated: the values are ours, and validation takes text.
        UpstreamServer.model_construct(address=_socket(f"{run_dir}/{name}-{index}.sock"), weight=weight)
        for index, weight in enumerate(weights)
    )


def _socket(path: str) -> Address:
    try:
        return Address.unix(path)
    except ValueError as error:
        raise ConfigError([Problem(path, 0, 0, "server.state_dir", f"too deep a folder: {error}")]) from None
