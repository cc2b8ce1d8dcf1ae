"""What a failed test is called on a machine whose host takes its processors away."""

from pathlib import Path

import pytest

from tests.stolen_time import StolenTime, stolen_ms, telling_stolen_time


def write(stat: Path, ticks: int) -> None:
    stat.write_text(f"cpu  10 20 30 40 50 60 70 {ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")


@pytest.mark.parametrize(("ticks", "expected"), [(0, ValueError), (1, ValueError), (5, StolenTime)])
def test_a_failure_is_the_hosts_only_if_it_took_time_meanwhile(
    tmp_path: Path, ticks: int, expected: type[Exception]
) -> None:
    stat = tmp_path / "stat"
    write(stat, 700)
    with pytest.raises(expected, match="too late"), telling_stolen_time(stat):
        write(stat, 700 + ticks)
        raise ValueError("too late")


def test_what_holds_on_such_a_machine_holds(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    write(stat, 700)
    with telling_stolen_time(stat):
        write(stat, 900)


def test_where_no_kernel_tells_none_was_stolen(tmp_path: Path) -> None:
    assert stolen_ms(tmp_path / "absent") == 0
    (tmp_path / "old").write_text("cpu  1 2 3 4\n")
    assert stolen_ms(tmp_path / "old") == 0
