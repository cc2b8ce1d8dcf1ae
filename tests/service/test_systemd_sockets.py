"""The hand-over of sockets, in a process of its own: its descriptors are 3 and following."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, os, sys
from duplex_asr.errors import ServiceError
from duplex_asr.service.systemd_sockets import take_over
if os.environ["LISTEN_PID"] == "mine":
    os.environ["LISTEN_PID"] = str(os.getpid())
try:
    taken = take_over(os.environ)
except ServiceError as error:
    sys.exit(str(error))
assert not any(name.startswith("LISTEN_") for name in os.environ)
assert not any(os.get_inheritable(each.fileno()) for each in sum(taken.values(), []))
print(json.dumps({name: [each.getsockname() for each in those] for name, those in taken.items()}))
"""


@pytest.fixture
def sockets(tmp_path: Path) -> list[socket.socket]:
    """Three that listen: two files and a port."""
    made = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    for each, name in zip(made, "ab", strict=True):
        each.bind(str(tmp_path / name))
        each.listen()
    return [*made, socket.create_server(("127.0.0.1", 0))]


def hand_over(
    given: list[socket.socket], names: str, count: str | None = None, pid: str = "mine"
) -> subprocess.CompletedProcess[str]:
    """Run PROGRAM with these sockets as its descriptors 3, 4, ..."""
    duplicates = [os.dup(each.fileno()) for each in given]
    # By way of high numbers, since the low ones may be among those still to be moved.
    high = [max(50, *duplicates) + 1 + i for i in range(len(given))]
    moves = "; ".join(
        [f"exec {h}<&{fd}" for h, fd in zip(high, duplicates, strict=True)]
        + [f"exec {3 + i}<&{h}" for i, h in enumerate(high)]
    )
    environment = {
        "LISTEN_PID": pid,
        "LISTEN_FDS": str(len(given)) if count is None else count,
        "LISTEN_FDNAMES": names,
        "PATH": os.environ["PATH"],
    }
    shell = f'{moves}; exec "$0" -c "$1"'
    answer = subprocess.run(
        ["bash", "-c", shell, sys.executable, PROGRAM],
        env=environment, cwd=REPOSITORY, pass_fds=duplicates, capture_output=True, text=True,
    )  # fmt: skip
    for fd in duplicates:
        os.close(fd)
    for each in given:
        each.close()
    return answer


def test_sockets_are_taken_by_their_names(sockets: list[socket.socket], tmp_path: Path) -> None:
    port = list(sockets[2].getsockname())
    answer = hand_over(sockets, "control:events:events")
    assert answer.returncode == 0, answer.stderr
    taken = json.loads(answer.stdout)
    assert taken == {"control": [str(tmp_path / "a")], "events": [str(tmp_path / "b"), port]}


def test_sockets_for_another_process_are_left_alone(sockets: list[socket.socket]) -> None:
    answer = hand_over(sockets, "control:events:events", pid="1")
    assert (answer.returncode, json.loads(answer.stdout)) == (0, {})


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        ("control:events:speech", None, "a socket named 'speech' was handed over"),
        ("control", None, "LISTEN_FDNAMES has 1 names for 3 sockets"),
        ("", None, "LISTEN_FDNAMES has 1 names for 3 sockets"),
        ("control:events:events", "x", "LISTEN_FDS is 'x'"),
        ("control:events:events", "0", "LISTEN_FDS is '0'"),
        ("control:events:events", "17", "LISTEN_FDS is '17'"),
        (":".join(["control"] * 16), "16", "handed over as control, is no socket"),
    ],
)
def test_a_wrong_hand_over_is_one_clear_error(
    sockets: list[socket.socket], names: str, count: str | None, message: str
) -> None:
    answer = hand_over(sockets, names, count)
    assert answer.returncode == 1
    assert message in answer.stderr and len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["datagrams", "connected"])
def test_only_sockets_that_listen_for_streams_are_taken(kind: str, tmp_path: Path) -> None:
    if kind == "datagrams":
        given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        given.bind(str(tmp_path / "d"))
    else:
        given, other = socket.socketpair()
        other.close()
    answer = hand_over([given], "events")
    assert "the socket handed over as events does not listen for streams" in answer.stderr
