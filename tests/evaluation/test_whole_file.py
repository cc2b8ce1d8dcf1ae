"""A report is there whole or not at all."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from duplex_asr.errors import ConfigError
from duplex_asr.evaluation.whole_file import check_writable, whole_file


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("caf\udce9 é")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "caf\\udce9 é"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.json"]


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The same error from the kernel at the same place, for this process alone.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with (
            pytest.raises(ConfigError, match="cannot write .*File too large"),
            whole_file(path) as f,
        ):
            f.write("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.json"]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "report.json")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigError, match="cannot write .*No such file"):
        check_writable(tmp_path / "none" / "report.json")
    with pytest.raises(ConfigError, match="is no file"):
        check_writable(tmp_path)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
