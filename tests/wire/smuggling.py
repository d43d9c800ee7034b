"""Send hostile streams through a proxy and judge both ends: safe, and right.

    python -m tests.wire.smuggling [--nginx]      a table for greenproxy (or for the nginx of this machine)

Reads $GREENPROXY_CASES/smuggling/cases.jsonl (id, source, label, raw in base64). Every stream has its own client
connection and its own address of 127.0.0.0/8, so X-Forwarded-For says which stream an upstream connection belongs
to, even with several streams at once. The origin reads on after it answered, so bytes that a proxy sends behind a
request are never overlooked.

Owns:       how streams are sent and attributed.
Leaves to:  wire/verdict.py what is safe and right, and how the origin's bytes are read.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.client import Address
from tests.harness.message import Malformed, Request
from tests.harness.origin import Connection, RecordingOrigin, reply
from tests.harness.ports import reserve_port
from tests.harness.proxy import config_for, running_proxy
from tests.harness.wait import wait_for
from tests.wire.verdict import CONTROL, Stream, Verdict, judge

VARIABLE = "GREENPROXY_CASES"
LANES = 24  # streams at once: most of the time of each is waiting for a timeout
HANG_S = 20.0
TIMEOUT_S = 1  # the proxy's header, body and keep-alive timeouts; short, for every stream is read until the close
_FIRST_ADDRESS = (127 << 24) + (1 << 16)


class ReadingOrigin(RecordingOrigin):
    """Answers the first request of a connection with Connection: close, and reads on until the proxy closes."""

    def reply(self, connection: Connection, request: Request) -> bytes:
        name = b"%s %s" % (request.method, request.target)
        return reply(
            b"answer\n",
            (b"X-Origin-Request", base64.b64encode(name)),
            (b"Connection", b"close"),
            head=request.method == b"HEAD",
        )

    def serve(self, connection: Connection) -> None:
        try:
            super().serve(connection)
        except Malformed as error:
            connection.error = str(error)
            connection.socket.sendall(reply(status=b"400 Bad Request"))
        connection.socket.shutdown(socket.SHUT_WR)
        while self.read(connection):
            pass

    def read(self, connection: Connection) -> bool:
        """Control bytes are for the verdict to judge; the origin answers as a lenient server would."""
        more = super().read(connection)
        connection.pending = CONTROL.sub(b"?", connection.pending)
        return more


def cases_path() -> Path | None:
    """Give the file of cases, or None where the variable is not set."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) / "smuggling" / "cases.jsonl" if folder else None


def load_streams(path: Path) -> list[Stream]:
    """Load all cases of the file."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [Stream(record["id"], record["label"], base64.b64decode(record["raw"])) for record in records]


def run(address: Address, origin: ReadingOrigin, streams: Sequence[Stream]) -> list[Verdict]:
    """Send all streams and judge each; the origin must be used by nobody else."""
    with ThreadPoolExecutor(LANES) as lanes:
        answers = list(lanes.map(lambda pair: _exchange(address, *pair), enumerate(streams)))
    wait_for(lambda: origin.open_connections == 0, "the proxy to close its upstream connections", HANG_S)
    received, strays = _by_client(origin)
    assert not strays, f"upstream connections that no client can be found for: {strays[:3]!r}"
    return [
        judge(stream, received.get(_client_address(number), []), answer)
        for number, (stream, answer) in enumerate(zip(streams, answers, strict=True))
    ]


def _client_address(number: int) -> str:
    return socket.inet_ntoa((_FIRST_ADDRESS + number).to_bytes(4, "big"))


def _exchange(address: Address, number: int, stream: Stream) -> bytes | None:
    """Send one stream, read until the close; None when the proxy hangs."""
    end = time.monotonic() + HANG_S
    with socket.create_connection(address, HANG_S, (_client_address(number), 0)) as client:  # type: ignore[arg-type]
        with contextlib.suppress(ConnectionError):
            client.sendall(stream.raw)
        received = b""
        while True:
            client.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = client.recv(65_536)
            except TimeoutError:
                return None
            except ConnectionError:
                return received
            if not data:
                return received
            received += data


def _by_client(origin: ReadingOrigin) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """Sort the upstream connections' bytes by the client that the first request names; others are strays."""
    found: dict[str, list[bytes]] = defaultdict(list)
    strays: list[bytes] = []
    for connection in origin.connections:
        data = bytes(connection.received)
        head = data.partition(b"\r\n\r\n")[0]
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        clients = [value.strip().decode("latin-1") for name, _, value in fields if name.lower() == b"x-forwarded-for"]
        if len(clients) == 1 and clients[0].startswith("127."):
            found[clients[0]].append(data)
        elif data:
            strays.append(data[:500])
    return found, strays


@contextlib.contextmanager
def greenproxy(origin: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run our proxy before the origin, with short timeouts and without pooled connections."""
    limits = dict.fromkeys(("header_timeout", "body_timeout", "keepalive_timeout"), f"{TIMEOUT_S}s")
    config = config_for(origin, server={"limits": limits})
    with running_proxy(config, folder) as proxy:
        yield proxy.address


@contextlib.contextmanager
def nginx(origin: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run nginx before the origin, to compare."""
    port = reserve_port()
    config = folder / "nginx.conf"
    timeouts = "".join(f"{name} {TIMEOUT_S}s; " for name in ("client_header_timeout", "client_body_timeout"))
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}} http {{ access_log off; "
        f"{timeouts} keepalive_timeout {TIMEOUT_S}s; client_body_temp_path {folder}/body; "
        f"proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; "
        f"scgi_temp_path {folder}/s; server {{ listen 127.0.0.1:{port.number}; server_name localhost; location / {{ "
        f"proxy_pass http://{origin}; proxy_http_version 1.1; proxy_set_header Host $host; "
        f'proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}'
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        address = ("127.0.0.1", port.number)
        wait_for(lambda: _listens(address), "nginx to listen")
        yield address
    finally:
        process.terminate()
        process.wait(10)
        port.release()


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def table(verdicts: Sequence[Verdict]) -> str:
    """Write the totals by source and every case that is not right."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for row in (verdict.stream.id.partition(":")[0], "all"):
            totals[row].update(cases=1, safe=verdict.safe, right=verdict.right)
    lines = [f"{'source':<12}{'cases':>7}{'safe':>7}{'right':>7}"]
    lines += [f"{row:<12}{sums['cases']:>7}{sums['safe']:>7}{sums['right']:>7}" for row, sums in totals.items()]
    lines += [str(verdict) for verdict in verdicts if not verdict.right]
    return "\n".join(lines)


def main() -> None:
    """Run all cases against a proxy and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.smuggling", description=__doc__.splitlines()[0])
    parser.add_argument("--nginx", action="store_true", help="judge the nginx of this machine instead of greenproxy")
    arguments = parser.parse_args()
    path = cases_path()
    if path is None:
        parser.error(f"set ${VARIABLE} to the folder that holds smuggling/cases.jsonl")
    contender = nginx if arguments.nginx else greenproxy
    with tempfile.TemporaryDirectory() as folder, ReadingOrigin() as origin:
        with contender(origin.address, Path(folder)) as address:
            started = time.monotonic()
            verdicts = run(address, origin, load_streams(path))
        print(table(verdicts))
        print(f"{time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
