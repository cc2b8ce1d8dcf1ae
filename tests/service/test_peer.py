from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from duplex_asr.service.peer import Peer, read_peer


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        peer = read_peer(ours)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert peer.program == Path("/proc/self/comm").read_text().strip()
    assert {os.getegid(), *os.getgroups()} == peer.gids
    assert peer.describe()["program"] == peer.program
    assert str(os.getpid()) in str(peer)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take groups")
def test_the_groups_of_a_peer_are_all_of_them(tmp_path: Path) -> None:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        command = [sys.executable, "-c", program, str(tmp_path / "s")]
        with subprocess.Popen(command, extra_groups=[60_001, 60_002]) as client:
            connection, _ = listening.accept()
            with connection:
                peer = read_peer(connection)
            assert client.wait(timeout=20) == 0
    assert peer.gids == {os.getegid(), 60_001, 60_002}


@pytest.mark.parametrize(("family", "host"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_a_peer_on_tcp_has_an_address(family: str, host: str) -> None:
    with socket.socket(getattr(socket, family)) as server:
        try:
            server.bind((host, 0))
        except OSError as exc:
            pytest.skip(f"no {family} here: {exc}")
        server.listen()
        with socket.create_connection(server.getsockname()[:2]) as client:
            connection, _ = server.accept()
            with connection:
                peer = read_peer(connection)
            port = client.getsockname()[1]
    assert not peer.is_local
    assert peer.describe() == {"address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


@pytest.mark.parametrize(
    ("peer", "mode", "may"),
    [
        (Peer(pid=1, uid=0, gid=0), 0o600, True),
        (Peer(pid=1, uid=7, gid=1), 0o600, True),
        (Peer(pid=1, uid=7, gid=5, gids=frozenset([5])), 0o060, False),  # the owner's bits count
        (Peer(pid=1, uid=8, gid=5, gids=frozenset([5])), 0o660, True),
        (Peer(pid=1, uid=8, gid=4, gids=frozenset([4, 5])), 0o660, True),
        (Peer(pid=1, uid=8, gid=4, gids=frozenset([4])), 0o660, False),
        (Peer(pid=1, uid=8, gid=4, gids=frozenset([4])), 0o666, True),
    ],
)
def test_who_may_connect_is_decided_as_the_kernel_would(peer: Peer, mode: int, may: bool) -> None:
    status = os.stat_result((0o140000 | mode, 0, 0, 1, 7, 5, 0, 0, 0, 0))
    assert peer.may_connect_to(status) is may
