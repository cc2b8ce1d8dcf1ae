"""sd_notify(3) on real datagram sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.service.notify import Notifier, take_notifier, take_watchdog_s


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a service manager would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
        bound.bind(str(tmp_path / "notify"))
        yield bound


def test_assignments_are_lines_of_one_datagram(manager: socket.socket) -> None:
    Notifier(manager.getsockname()).send(READY=1, STATUS="Listening to the room")
    assert manager.recv(1000) == b"READY=1\nSTATUS=Listening to the room"


def test_an_abstract_address_is_reached() -> None:
    name = f"duplex-asr-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
        bound.bind(f"\0{name}")
        Notifier(f"@{name}").send(WATCHDOG=1)
        assert bound.recv(100) == b"WATCHDOG=1"


def test_a_status_of_several_lines_cannot_say_something_else(manager: socket.socket) -> None:
    Notifier(manager.getsockname()).send(STATUS="lost\nREADY=1\udcff " + "x" * 1000)
    received = manager.recv(5000)
    assert received.startswith(b"STATUS=lost READY=1\\udcff xxx")
    assert b"\n" not in received and len(received) < 500


def test_without_a_service_manager_nothing_is_sent() -> None:
    notifier = Notifier("")
    assert not notifier.is_listened_to
    notifier.send(READY=1)


@pytest.mark.parametrize("address", ["vsock:2:1234", "/nowhere/notify", "/" + "x" * 200])
def test_a_service_manager_that_cannot_be_told_is_warned_of_once(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address)
    notifier.send(READY=1)
    notifier.send(STATUS="Listening")
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith(f"cannot tell NOTIFY_SOCKET {address} anything")


def test_the_address_is_taken_so_that_no_child_speaks_for_the_service() -> None:
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "PATH": "/bin"}
    assert take_notifier(environ).is_listened_to
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_s_time_is_taken_if_it_is_ours(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert take_watchdog_s(environ) == seconds
    assert environ == {}
