"""Listening sockets as the kernel sees them: one a slot, none lost, none taken from another process."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from greenproxy.config.schema import Listener
from greenproxy.errors import StartError
from greenproxy.listener.sockets import BACKLOG, ListenerSockets

Bind = Callable[..., ListenerSockets]


@pytest.fixture
def bind() -> Iterator[Bind]:
    made: list[ListenerSockets] = []

    def do(*addresses: str, slots: int = 4) -> ListenerSockets:
        listeners = [Listener.model_validate({"address": address}) for address in addresses]
        made.append(ListenerSockets.bind(listeners, slots))
        return made[-1]

    yield do
    for sockets in made:
        sockets.close()


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def accept_all(sock: socket.socket) -> int:
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_port_0_is_one_port_for_all_slots(bind: Bind) -> None:
    sockets = bind("127.0.0.1:0")
    ports = {sockets.of_slot(slot)[0][1].getsockname()[1] for slot in range(4)}
    assert [f"127.0.0.1:{ports.pop()}"] == sockets.addresses
    assert not ports


def test_every_slot_gets_its_share_and_nothing_is_lost(bind: Bind) -> None:
    sockets = bind("127.0.0.1:0")
    address = host_and_port(sockets.addresses[0])
    clients = [socket.create_connection(address) for _ in range(200)]
    shares = [accept_all(sockets.of_slot(slot)[0][1]) for slot in range(4)]
    for client in clients:
        client.close()
    assert sum(shares) == 200
    assert min(shares) > 20


def test_backlog_holds_a_thousand_clients_of_one_slot(bind: Bind) -> None:
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    sockets = bind("127.0.0.1:0", slots=1)
    address = host_and_port(sockets.addresses[0])
    clients = [socket.create_connection(address, timeout=5) for _ in range(min(1024, somaxconn, BACKLOG))]
    assert accept_all(sockets.of_slot(0)[0][1]) == len(clients)
    for client in clients:
        client.close()


def test_connections_of_a_slot_outlive_its_worker(bind: Bind) -> None:
    sockets = bind("127.0.0.1:0", slots=1)
    pid = os.fork()
    if pid == 0:  # a worker that dies before it accepts
        os._exit(0)
    with socket.create_connection(host_and_port(sockets.addresses[0])):
        os.waitpid(pid, 0)
        assert accept_all(sockets.of_slot(0)[0][1]) == 1


def test_second_instance_is_refused_with_the_address(bind: Bind) -> None:
    address = bind("127.0.0.1:0").addresses[0]
    with pytest.raises(StartError, match=f"cannot listen on {address}: Address already in use .*another instance"):
        bind(address)


def test_a_refused_listener_leaves_none_of_the_others_bound(bind: Bind) -> None:
    taken = bind("127.0.0.1:0").addresses[0]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StartError):
        bind(free, taken)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(host_and_port(free))


def test_ipv4_and_ipv6_wildcards_share_a_port(bind: Bind) -> None:
    port = host_and_port(bind("0.0.0.0:0").addresses[0])[1]
    assert bind(f"[::]:{port}").addresses == [f"[::]:{port}"]


def test_a_worker_closes_the_other_slots(bind: Bind) -> None:
    sockets = bind("127.0.0.1:0", "127.0.0.1:0")
    sockets.close_all_but(2)
    open_now = [[sock.fileno() >= 0 for _, sock in sockets.of_slot(slot)] for slot in range(4)]
    assert open_now == [[False, False], [False, False], [True, True], [False, False]]


def test_unix_socket_is_shared_open_to_all_and_removed(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "gp.sock"
    sockets = bind(f"unix:{path}")
    assert sockets.of_slot(0)[0][1] is sockets.of_slot(3)[0][1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    sockets.close_all_but(3)
    assert sockets.of_slot(3)[0][1].fileno() >= 0
    sockets.close()
    assert not path.exists()


def test_unix_socket_file_of_a_dead_process_is_replaced(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "gp.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    sockets = bind(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert accept_all(sockets.of_slot(0)[0][1]) == 1


def test_unix_socket_that_answers_is_refused_and_kept(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "gp.sock"
    bind(f"unix:{path}")
    with pytest.raises(StartError, match=f"unix:{path}: address already in use"):
        bind(f"unix:{path}")
    assert path.exists()


def test_a_file_that_is_no_socket_is_never_removed(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartError, match="not a socket"):
        bind(f"unix:{path}")
    assert path.read_text() == "data"


def test_a_unix_socket_another_has_bound_since_is_not_removed(bind: Bind, tmp_path: Path) -> None:
    path = tmp_path / "gp.sock"
    first = bind(f"unix:{path}")
    path.unlink()
    bind(f"unix:{path}")
    first.close()
    assert path.exists()


def test_host_that_does_not_resolve_is_named(bind: Bind) -> None:
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid:80: "):
        bind("no-such-host.invalid:80")
