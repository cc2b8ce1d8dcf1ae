from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.errors import ConfigError, ServiceError
from duplex_asr.service import runtime_dir as runtime_dir_module
from duplex_asr.service.runtime_dir import (
    MAX_SOCKET_PATH_BYTES,
    RuntimeDir,
    ServiceConfig,
    find_daemon_dir,
    find_runtime_dir,
)
from duplex_asr.settings import check_settings


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    previous = os.umask(request.param)
    yield
    os.umask(previous)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("any_umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        with runtime_dir.bind(runtime_dir.events_path):
            assert mode(tmp_path / "run") == 0o750
            assert mode(runtime_dir.events_path) == 0o660
            assert mode(tmp_path / "run" / "duplex-asr.pid") & 0o007 == 0


def test_a_socket_is_never_open_to_others_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def chmod(path: Path, _: int) -> None:
        modes.append(mode(path))

    previous = os.umask(0)
    try:
        with RuntimeDir(tmp_path / "run") as runtime_dir:
            monkeypatch.setattr(os, "chmod", chmod)
            runtime_dir.bind(runtime_dir.events_path).close()
            monkeypatch.undo()
    finally:
        os.umask(previous)
    assert modes == [0o660]


def test_everything_made_is_removed(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path / "run") as runtime_dir:
        runtime_dir.bind(runtime_dir.events_path).close()
        assert sorted(each.name for each in runtime_dir.path.iterdir()) == [
            "duplex-asr.pid",
            "events.sock",
        ]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    with RuntimeDir(tmp_path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["other"]


def test_a_made_folder_with_a_strange_file_stays(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path / "run"):
        (tmp_path / "run" / "other").write_text("x")
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["other"]


def test_a_socket_mode_out_of_range_is_answered_in_octal() -> None:
    expected = r"service\.socket_mode = 0o777: it must be between 0o600 and 0o666"
    with pytest.raises(ConfigError, match=expected):
        check_settings(ServiceConfig(socket_mode=0o777), "service")


def test_a_second_daemon_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from duplex_asr.service.runtime_dir import RuntimeDir\n"
        "with RuntimeDir(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ServiceError, match=rf"pid {holder.pid}\) is using"):
            RuntimeDir(tmp_path / "run").__enter__()
        assert (tmp_path / "run" / "duplex-asr.pid").exists()
    with RuntimeDir(tmp_path / "run"):  # the first has stopped
        pass


def test_the_pid_file_of_a_killed_daemon_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "duplex-asr.pid").write_text("1\n")
    with RuntimeDir(tmp_path):
        assert (tmp_path / "duplex-asr.pid").read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "duplex-asr.pid").symlink_to(tmp_path / "precious")
    with pytest.raises(ServiceError, match="cannot write"):
        RuntimeDir(tmp_path).__enter__()
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path) as runtime_dir:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(runtime_dir.events_path))
        runtime_dir.bind(runtime_dir.events_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path) as runtime_dir, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime_dir.events_path))
        other.listen()
        with pytest.raises(ServiceError, match="another program is listening"):
            runtime_dir.bind(runtime_dir.events_path)
    assert [each.name for each in tmp_path.iterdir()] == ["events.sock"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_a_socket_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    with RuntimeDir(tmp_path) as runtime_dir:
        path = runtime_dir.control_path
        if kind == "file":
            path.write_text("x")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("nowhere")
        with pytest.raises(ServiceError, match="is not a socket"):
            runtime_dir.bind(path)
    assert path.is_symlink() or path.exists()


def test_a_socket_that_somebody_else_put_in_the_place_of_ours_stays(tmp_path: Path) -> None:
    with RuntimeDir(tmp_path) as runtime_dir:
        runtime_dir.bind(runtime_dir.events_path).close()
        runtime_dir.events_path.rename(tmp_path / "moved")
        runtime_dir.events_path.write_text("x")
    assert (tmp_path / "events.sock").read_text() == "x"


def test_a_path_that_no_socket_address_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * (MAX_SOCKET_PATH_BYTES - len(str(tmp_path)) - len("/control.sock")))
    with pytest.raises(ServiceError, match="choose a shorter --runtime-dir"):
        RuntimeDir(folder).__enter__()
    assert not folder.exists()


def test_the_longest_possible_path_works(tmp_path: Path) -> None:
    length = MAX_SOCKET_PATH_BYTES - len(str(tmp_path)) - len("//control.sock")
    with RuntimeDir(tmp_path / ("x" * length)) as runtime_dir:
        assert len(str(runtime_dir.control_path)) == MAX_SOCKET_PATH_BYTES
        runtime_dir.bind(runtime_dir.control_path).close()


def test_a_folder_in_a_folder_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot make the runtime folder"):
        RuntimeDir(tmp_path / "missing" / "run").__enter__()


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(ServiceError, match="is not a folder"):
        RuntimeDir(tmp_path / "run").__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, 12345)
    with pytest.raises(ServiceError, match="belongs to user 12345"):
        RuntimeDir(tmp_path / "run").__enter__()


def test_the_folder_is_found_in_the_same_order_as_documented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/duplex-asr:/run/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert find_runtime_dir("/x/y") == Path("/x/y")
    assert find_runtime_dir("") == Path("/run/duplex-asr")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert find_runtime_dir("") == Path("/run/user/1000/duplex-asr")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert find_runtime_dir("") == Path(f"/tmp/duplex-asr-{os.geteuid()}")


def test_a_client_takes_the_system_s_service_if_the_user_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = tmp_path / "own", tmp_path / "system"
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    monkeypatch.setattr(runtime_dir_module, "SYSTEM_DIR", system)
    assert find_daemon_dir("") == own / "duplex-asr"  # which its error message names
    system.mkdir()
    (system / "control.sock").touch()
    assert find_daemon_dir("") == system
    assert find_daemon_dir("/x") == Path("/x")
    (own / "duplex-asr").mkdir(parents=True)
    (own / "duplex-asr" / "control.sock").touch()
    assert find_daemon_dir("") == own / "duplex-asr"
