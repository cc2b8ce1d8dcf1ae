"""The unit files as text and as systemd reads them; tests/systemd/run.sh starts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from duplex_asr.config import Config, load_config
from duplex_asr.errors import ConfigError, EngineError

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = ("duplex-asr.service", "duplex-asr-control.socket", "duplex-asr-events.socket")
TOO_NEW = ("notify-reload", "RestartSteps", "RestartMaxDelaySec", "RestartMode", "ImportCredential")

needs_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze")
    or b"--offline"
    not in subprocess.run(["systemd-analyze", "--help"], capture_output=True).stdout,
    reason="needs systemd-analyze of systemd 250 or later",
)


def directives(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().replace("\\\n", "").splitlines()
    return [
        (key, value)
        for key, equals, value in (line.partition("=") for line in lines if line[:1] != "#")
        if equals
    ]


def exposure(unit: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", answer.stdout)
    assert found is not None, answer.stdout
    return float(found[1])


def with_drop_in(tmp_path: Path, name: str) -> Path:
    """The system unit as it is with a drop-in, which reads as if it stood behind it."""
    unit = tmp_path / "duplex-asr.service"
    unit.write_text(
        "\n".join((UNITS / each).read_text() for each in (NAMES[0], f"drop-ins/{name}"))
    )
    return unit


@needs_analyze
@pytest.mark.parametrize("options", [[], ["--user"]], ids=["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_units(options: list[str], tmp_path: Path) -> None:
    folder = UNITS / "user" if options else UNITS
    answer = subprocess.run(
        ["systemd-analyze", *options, "verify", *(str(folder / name) for name in NAMES)],
        capture_output=True,
        text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize("drop_in", [None, "gpu.conf", "tcp.conf"])
def test_the_service_is_exposed_to_as_little_as_documented(
    tmp_path: Path, drop_in: str | None
) -> None:
    unit = UNITS / NAMES[0] if drop_in is None else with_drop_in(tmp_path, drop_in)
    shown = f"`drop-ins/{drop_in}`" if drop_in else "none"
    table = (UNITS / "README.md").read_text()
    documented = re.search(rf"^\| {re.escape(shown)} \|.*\| ([\d.]+) \|$", table, re.MULTILINE)
    assert documented is not None
    assert exposure(unit) <= float(documented[1]) + 0.2 <= 2.0  # other versions judge otherwise


@pytest.mark.parametrize("folder", [UNITS, UNITS / "user"], ids=["system", "user"])
def test_nothing_needs_a_newer_systemd_than_249(folder: Path) -> None:
    for name in NAMES:
        text = (folder / name).read_text()
        used = {f"{key}={value}" for key, value in directives(folder / name)}
        assert not [each for each in TOO_NEW for line in used if each in line], text


@pytest.mark.parametrize("folder", [UNITS, UNITS / "user"], ids=["system", "user"])
def test_exit_codes_that_no_restart_cures_are_not_restarted_on(folder: Path) -> None:
    codes = dict(directives(folder / NAMES[0]))["RestartPreventExitStatus"].split()
    assert {str(ConfigError.exit_code), str(EngineError.exit_code)} <= set(codes)


@pytest.mark.parametrize("folder", [UNITS, UNITS / "user"], ids=["system", "user"])
def test_a_missing_microphone_does_not_end_the_service(folder: Path) -> None:
    assert " serve --wait-for-microphone " in dict(directives(folder / NAMES[0]))["ExecStart"]


@pytest.mark.parametrize("folder", [UNITS, UNITS / "user"], ids=["system", "user"])
def test_every_hardening_directive_has_a_comment_that_says_on_or_off(folder: Path) -> None:
    text = (folder / NAMES[0]).read_text().split("# --- hardening")[1].split("[Install]")[0]
    lines = text.splitlines()[1:]
    found = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert len(found) >= 14
    for number in found:
        begin = number - 1
        while lines[begin][:1] == "#" and not lines[begin].startswith(("# On", "# Off")):
            begin -= 1
        assert lines[begin].startswith(("# On", "# Off")), lines[number]


def test_no_network_address_family_is_allowed_but_in_the_drop_in_for_tcp() -> None:
    for path in (UNITS / NAMES[0], UNITS / "user" / NAMES[0]):
        assert dict(directives(path))["RestrictAddressFamilies"] == "AF_UNIX"
    tcp = dict(directives(UNITS / "drop-ins" / "tcp.conf"))
    assert tcp["RestrictAddressFamilies"] == "AF_INET AF_INET6"


def test_reading_and_giving_orders_are_two_groups_that_sysusers_makes() -> None:
    sysusers = (UNITS / "sysusers.d" / "duplex-asr.conf").read_text()
    groups = {dict(directives(UNITS / name))["SocketGroup"] for name in NAMES[1:]}
    assert groups == {"duplex-asr-listeners", "duplex-asr-controllers"}
    for group in groups:
        assert re.search(rf"^g {group} ", sysusers, re.MULTILINE)


@pytest.mark.parametrize("folder", [UNITS, UNITS / "user"], ids=["system", "user"])
def test_the_sockets_lie_where_the_service_and_its_clients_look(folder: Path) -> None:
    runtime_dir = dict(directives(folder / NAMES[0]))["ExecStart"].split("--runtime-dir ")[1]
    for name in NAMES[1:]:
        socket = dict(directives(folder / name))
        kind = socket["FileDescriptorName"]
        assert socket["ListenStream"] == f"{runtime_dir}/{kind}.sock"
        assert name == f"duplex-asr-{kind}.socket"


def test_the_watchdog_s_budgets_fit_the_unit() -> None:
    """A restart comes at most this long after a decode began to hang; said in the documentation."""
    watchdog_s = int(dict(directives(UNITS / NAMES[0]))["WatchdogSec"])
    budget_s = Config().watchdog.decode_budget_ms / 1000
    assert budget_s + 1.5 * watchdog_s <= 120


def test_the_configuration_that_is_installed_is_one(tmp_path: Path) -> None:
    answer = subprocess.run(
        [str(UNITS / "install.sh"), "--dry-run"], capture_output=True, text=True, check=True
    )
    lines = [line[6:] for line in answer.stdout.splitlines() if line.startswith("    | ")]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    assert load_config(path).engine.path == "/opt/duplex-asr/engines/demo"
