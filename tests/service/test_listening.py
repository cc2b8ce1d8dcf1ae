from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.errors import ConfigError, ServiceError
from duplex_asr.service.listening import (
    TcpAddress,
    check_service,
    open_sockets,
    parse_tcp,
    socket_path,
)
from duplex_asr.service.peer import Peer
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig

OTHER_GIDS = sorted({each.gr_gid for each in grp.getgrall()} - {os.getegid(), *os.getgroups()})
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or len(OTHER_GIDS) < 2, reason="only root can give files to any group"
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:10301", TcpAddress("127.0.0.1", 10301)),
        ("localhost:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
    ],
)
def test_an_address_is_an_ip_address_and_a_port(text: str, address: TcpAddress | None) -> None:
    assert parse_tcp(text, "service.events_tcp") == address


@pytest.mark.parametrize(
    "text", ["10301", "127.0.0.1", "127.0.0.1:", "::1:10301", "[127.0.0.1]:1", "[::1]", "a.b:1",
             "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣", ":1"],
)  # fmt: skip
def test_what_is_no_address_is_a_config_error_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"service\.events_tcp = .*like 127\.0\.0\.1:10301"):
        parse_tcp(text, "service.events_tcp")


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "[2001:db8::1]:1"])
def test_an_address_that_others_reach_takes_permission(text: str) -> None:
    with pytest.raises(ConfigError, match=r"set service\.allow_remote = true"):
        check_service(ServiceConfig(control_tcp=text))
    check_service(ServiceConfig(control_tcp=text, allow_remote=True))


def test_a_group_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r'control_group = "no-such-group".*groupadd'):
        check_service(ServiceConfig(control_group="no-such-group"))


def test_the_sockets_of_the_runtime_folder_are_opened(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        opened = open_sockets(runtime_dir, ServiceConfig(), {})
        names = [each[0].getsockname() for each in (opened.events, opened.control, opened.metrics)]
        opened.close()
    assert [Path(name).name for name in names] == ["events.sock", "control.sock", "metrics.sock"]


def test_there_need_not_be_a_metrics_socket(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        opened = open_sockets(runtime_dir, ServiceConfig(metrics_socket=False), {})
        assert opened.metrics == [] and not runtime_dir.metrics_path.exists()
        opened.close()


def test_tcp_is_served_beside_the_unix_sockets(tmp_path: Path) -> None:
    config = ServiceConfig(events_tcp="127.0.0.1:0", control_tcp="127.0.0.1:0")
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        opened = open_sockets(runtime_dir, config, {})
        for purpose in (opened.events, opened.control):
            assert [each.family for each in purpose] == [socket.AF_UNIX, socket.AF_INET]
        assert opened.may_read_events(Peer(address="127.0.0.1:5"))
        opened.close()


def test_events_whose_socket_was_removed_are_for_nobody_new(tmp_path: Path) -> None:
    us = Peer(pid=1, uid=os.geteuid(), gid=os.getegid())
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        opened = open_sockets(runtime_dir, ServiceConfig(), {})
        assert opened.may_read_events(us)
        runtime_dir.events_path.unlink()
        assert not opened.may_read_events(us)
        opened.close()


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, RuntimeDir(tmp_path) as runtime_dir:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ServiceError, match=rf"cannot listen on {address} \(service.control"):
            open_sockets(runtime_dir, ServiceConfig(control_tcp=address), {})


def test_what_systemd_hands_over_is_not_made_and_not_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as handed:
        handed.bind(str(tmp_path / "elsewhere.sock"))
        handed.listen()
        with RuntimeDir(tmp_path / "run") as runtime_dir:
            opened = open_sockets(runtime_dir, ServiceConfig(), {"events": [handed]})
            assert opened.events == [handed] and not runtime_dir.events_path.exists()
            assert runtime_dir.control_path.exists()
            opened.close()
    assert (tmp_path / "elsewhere.sock").exists()


@needs_root
def test_each_socket_belongs_to_its_group_and_the_folder_lets_both_through(tmp_path: Path) -> None:
    names = [grp.getgrgid(gid).gr_name for gid in OTHER_GIDS[:2]]
    config = ServiceConfig(events_group=names[0], control_group=names[1])
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        opened = open_sockets(runtime_dir, config, {})
        paths = (runtime_dir.events_path, runtime_dir.control_path)
        assert [path.stat().st_gid for path in paths] == OTHER_GIDS[:2]
        assert [mode(path) for path in paths] == [0o660, 0o660]
        assert mode(runtime_dir.path) == 0o711
        reader = Peer(pid=1, uid=99, gid=OTHER_GIDS[0], gids=frozenset(OTHER_GIDS[:1]))
        commander = Peer(pid=1, uid=99, gid=OTHER_GIDS[1], gids=frozenset(OTHER_GIDS[1:2]))
        assert opened.may_read_events(reader) and not opened.may_read_events(commander)
        assert not opened.may_read_events(Peer(address="127.0.0.1:5"))
        opened.close()


@needs_root
def test_a_folder_that_a_group_cannot_enter_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(0o750)
    name = grp.getgrgid(OTHER_GIDS[0]).gr_name
    with RuntimeDir(folder) as runtime_dir:
        open_sockets(runtime_dir, ServiceConfig(events_group=name), {}).close()
    assert f"members of the group {name} cannot enter {folder}" in caplog.text
    assert mode(folder) == 0o750  # it is not ours


def test_a_socket_that_cannot_be_given_away_is_an_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    name = grp.getgrgid(os.getegid()).gr_name
    with RuntimeDir(tmp_path) as runtime_dir:
        with pytest.raises(ServiceError, match="make the daemon's user a member of it"):
            open_sockets(runtime_dir, ServiceConfig(events_group=name), {})
        assert not runtime_dir.events_path.exists()


def test_a_socket_on_tcp_has_no_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert socket_path(server) is None
