"""The machine itself: release, power mode, clocks, memory, swap and disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from duplex_asr.doctor.examination import Examination
from duplex_asr.doctor.finding import Finding, Level
from duplex_asr.doctor.host import Host
from duplex_asr.errors import NotEnoughMemoryError
from duplex_asr.memory_ledger import MemoryLedger, memory_needs, parts_in_turn, resident_mb

# JetPack releases by their L4T; docs/jetson.md has the sources.
JETPACKS = {"36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "39.2.0": "7.2", "39.2.1": "7.2.1"}
FAULTY_L4T = "36.4.7"
NEWEST_L4T_HOW_TO = (
    "sudo apt update && sudo apt full-upgrade  # to L4T 36.5; 36.4.4 has no such fault either"
)
ORIN_GPU_TOP_HZ = 1_000_000_000  # 1020 MHz in the MAXN_SUPER of an Orin Nano
LITTLE_HEADROOM_MB = 500.0
DISK_WARNING_MB = 200.0
WHY_MODE = "each transcript and each sentence takes longer in a mode with lower clocks"


def l4t_release(host: Host) -> str:
    """ "36.4.3" on a Jetson; "" elsewhere."""
    found = re.match(
        r"# R(\d+) \(release\), REVISION: ([0-9.]+)", host.text("/etc/nv_tegra_release")
    )
    return f"{found[1]}.{found[2]}" if found else ""


def check_board(exam: Examination) -> Iterator[Finding]:
    """Model and L4T release of a Jetson, with the faults that are known of it."""
    if not exam.is_jetson:
        return
    model = exam.host.text("/proc/device-tree/model") or "a Jetson"
    release = l4t_release(exam.host)
    if not release:
        yield Finding(
            "board", "not-checked", f"{model}; /etc/nv_tegra_release does not say its L4T release",
            "some releases have faults that keep engines from loading",
            "head -1 /etc/nv_tegra_release",
        )  # fmt: skip
        return
    jetpack = JETPACKS.get(release)
    what = f"{model}, L4T {release}" + (f" (JetPack {jetpack})" if jetpack else "")
    if release != FAULTY_L4T:
        why = "drivers, CUDA and TensorRT come with the release"
        yield Finding("board", "ok", what, why)
        return
    affected = "" if exam.uses_gpu else "; your engine runs on the processor and is not affected"
    yield Finding(
        "board", "warning", f"{what}, which has a known fault in its GPU memory{affected}",
        "large GPU allocations are refused (NvMapMemAllocInternalTagged ... error 12) although"
        " memory is free, so that an engine may not load",
        NEWEST_L4T_HOW_TO,
    )  # fmt: skip


def power_modes(host: Host) -> dict[str, int]:
    """Modes of /etc/nvpmodel.conf: name -> number, which differs between boards."""
    rows = re.findall(
        r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", host.text("/etc/nvpmodel.conf"), re.MULTILINE
    )
    return {name: int(number) for number, name in rows}


def _power_of(mode: str) -> float:
    """By how much power a mode may use, to order them: MAXN_SUPER, MAXN, 25W, 15W ..."""
    watts = re.match(r"(?:MODE_)?(\d+)W", mode)
    if watts:
        return float(watts[1])
    return {"MAXN_SUPER": 1002.0, "MAXN": 1001.0}.get(mode.upper(), 0.0)


def power_mode(host: Host) -> str:
    """The present mode by name; "" if it cannot be known."""
    answer = host.run(("nvpmodel", "-q"))
    found = re.search(r"NV Power Mode:\s*(\S+)", answer.output) if answer else None
    return found[1] if found else ""


def check_power_mode(exam: Examination) -> Iterator[Finding]:
    """Whether a Jetson is in the fastest mode that it has."""
    if not exam.is_jetson:
        return
    modes, mode = power_modes(exam.host), power_mode(exam.host)
    if not mode:
        yield Finding(
            "power mode", "not-checked", "nvpmodel -q does not say it", WHY_MODE, "sudo nvpmodel -q"
        )
        return
    best = max(modes, key=_power_of, default=mode)
    if _power_of(mode) >= _power_of(best):
        yield Finding("power mode", "ok", f"{mode}, the fastest of this board", WHY_MODE)
        return
    yield Finding(
        "power mode", "warning", f"{mode}, and the board has {best}", WHY_MODE,
        f"sudo nvpmodel -m {modes[best]}",
    )  # fmt: skip


def check_clocks(exam: Examination) -> Iterator[Finding]:
    """What the GPU's clock of a Jetson may reach, and whether it is kept there."""
    if not exam.is_jetson:
        return
    host = exam.host
    folders = host.paths("/sys/class/devfreq/*gpu") + host.paths("/sys/class/devfreq/*ga10b")
    why = "the first encoder run after a pause is slow while clocks go up"
    if not folders:
        yield Finding(
            "clocks", "not-checked", "/sys/class/devfreq has no GPU", why, "ls /sys/class/devfreq"
        )
        return
    clocks = {name: host.text(f"{folders[0]}/{name}_freq") for name in ("min", "cur", "max")}
    if not all(value.isdigit() for value in clocks.values()):
        yield Finding(
            "clocks", "not-checked", f"{folders[0]} does not say them", why,
            f"grep . {folders[0]}/*_freq",
        )  # fmt: skip
        return
    lowest, present, highest = (int(clocks[name]) for name in ("min", "cur", "max"))
    governor = host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown"
    what = (
        f"GPU {present // 10**6} MHz, may go from {lowest // 10**6} to {highest // 10**6};"
        f" processor's governor {governor}"
    )
    if power_mode(host) == "MAXN_SUPER" and highest < ORIN_GPU_TOP_HZ:
        yield Finding(
            "clocks", "warning", f"{what}; in MAXN_SUPER it should reach 1020",
            "firmware without the -super clocks keeps the GPU at 624 MHz, seen after an update to"
            " L4T 36.5: a transcript takes 1.6 times as long",
            "flash the -super configuration of the board (jetson-orin-nano-devkit-super)",
        )  # fmt: skip
        return
    kept = "; jetson_clocks keeps them up" if lowest == highest else ""
    fix = "" if kept else "sudo jetson_clocks  # keeps them up until the next boot, for more power"
    yield Finding("clocks", "ok", what + kept, why, fix)


def check_memory(exam: Examination) -> Iterator[Finding]:
    """What the ledger reckons against what is free, or what a running daemon has taken."""
    host = exam.host
    available_mb, total_mb = host.meminfo_mb("MemAvailable"), host.meminfo_mb("MemTotal") or 0.0
    why = "what does not fit is refused at the start, or ends by the kernel in the middle of a text"
    if available_mb is None:
        yield Finding(
            "memory", "not-checked", "/proc/meminfo does not say what is available", why, "free -m"
        )
        return
    free = f"{available_mb:.0f} of {total_mb:.0f} MB available"
    if exam.daemon is not None:
        status = exam.daemon.status or {}
        taken_mb = (status.get("memory") or {}).get("resident_mb")
        taken = f", beside the daemon's {taken_mb:.0f} MB" if taken_mb else ""
        level: Level = "ok" if available_mb >= LITTLE_HEADROOM_MB / 2 else "warning"
        yield Finding(
            "memory", level, free + taken, why, _free_memory(exam) if level != "ok" else ""
        )
        return
    if exam.manifest is None:
        yield Finding("memory", "ok", f"{free}; without an engine nothing is reckoned", why)
        return
    needs = memory_needs(exam.config, exam.manifest)
    in_turn = parts_in_turn(exam.config)

    def refusal(budget_mb: int, spare_mb: float = 0.0) -> str:
        """What the start would be refused with if so much less were there; "" if it fits."""
        free_mb = available_mb - spare_mb
        try:
            MemoryLedger(needs, budget_mb, available=lambda: free_mb, in_turn=in_turn).check()
        except NotEnoughMemoryError as error:
            return str(error)
        return ""

    budget_mb = exam.config.service.memory_budget_mb
    # Without what this process has already, which will end.
    needed_mb = MemoryLedger(needs, 0, in_turn=in_turn).most_needed_mb - resident_mb()
    what = f"{needed_mb:.0f} MB needed, {free}"
    largest = max((each for each in needs if each.how_to_lower), key=lambda each: each.mb)
    lower = f"lower {largest.part} ({largest.mb:.0f} MB): {largest.how_to_lower}"
    too_much = (refusal(budget_mb) if budget_mb else "") or refusal(0)
    if "unload_after_s" in too_much:
        lower += "; or engine.unload_after_s = 0 and voice.unload_after_s = 0, which then fit"
    if budget_mb and refusal(budget_mb):
        what = f"{needed_mb:.0f} MB needed and service.memory_budget_mb is {budget_mb}"
        yield Finding("memory", "failed", what, why, lower)
    elif too_much:
        yield Finding("memory", "failed", what, why, f"{_free_memory(exam)}; or {lower}")
    elif refusal(0, LITTLE_HEADROOM_MB):
        yield Finding("memory", "warning", f"{what}: little is left", why, _free_memory(exam))
    else:
        yield Finding("memory", "ok", what, why)


def _free_memory(exam: Examination) -> str:
    """What gives most of it back."""
    if exam.host.link("/etc/systemd/system/default.target").endswith("graphical.target"):
        return "sudo systemctl set-default multi-user.target && sudo reboot  # without a desktop"
    return "ps -eo rss,pid,comm --sort=-rss | head  # and end what is not needed"


def check_swap(exam: Examination) -> Iterator[Finding]:
    """Swap of a Jetson, whose builds need it; elsewhere only where memory is short."""
    host = exam.host
    total_mb, free_mb = host.meminfo_mb("SwapTotal"), host.meminfo_mb("SwapFree")
    available_mb = host.meminfo_mb("MemAvailable")
    if total_mb is None or free_mb is None or available_mb is None:
        return
    if not exam.is_jetson and (total_mb or available_mb > 4 * LITTLE_HEADROOM_MB):
        return
    why = (
        "building an engine on the board takes gigabytes for some minutes; what the GPU holds is"
        " never swapped out"
        if exam.is_jetson
        else "without it the kernel ends a program when memory is short"
    )
    how = (
        "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile &&"
        " sudo swapon /swapfile"
    )
    rows = [line.split() for line in host.text("/proc/swaps").splitlines()[1:]]
    if not total_mb:
        yield Finding("swap", "warning", "there is none", why, how)
        return
    what = f"{free_mb:.0f} of {total_mb:.0f} MB free"
    if rows and all(row[0].startswith("/dev/zram") for row in rows):
        yield Finding(
            "swap", "warning", f"{what}, all of it compressed memory (zram)", why,
            f"sudo systemctl disable nvzramconfig && {how}" if exam.is_jetson else how,
        )  # fmt: skip
        return
    yield Finding("swap", "ok", what, why)


def check_disk(exam: Examination) -> Iterator[Finding]:
    """Space where the daemon writes: sockets, log, and what is to be saved."""
    debug = exam.config.debug
    places = {"/var/log": DISK_WARNING_MB}
    for folder, max_mb in (
        (debug.save_utterances_dir, debug.save_utterances_max_mb),
        (debug.save_sessions_dir, debug.save_sessions_max_mb),
    ):
        if folder:
            places[str(Path(folder).expanduser())] = float(max_mb)
    if exam.engine_folder is not None:
        places[str(exam.engine_folder.absolute())] = DISK_WARNING_MB
    why = "on a full disk nothing is logged or saved, and an upgrade breaks off"
    short, found = [], []
    for place, wanted_mb in places.items():
        free_mb = exam.host.free_mb(place)
        if free_mb is None:
            continue
        found.append(f"{free_mb:.0f} MB for {place}")
        if free_mb < wanted_mb:
            short.append(
                f"{place} has {free_mb:.0f} MB free of the {wanted_mb:.0f} that it may need"
            )
    if short:
        yield Finding(
            "disk", "warning", "; ".join(short), why, "sudo journalctl --vacuum-size=100M; df -h"
        )
    elif found:
        yield Finding("disk", "ok", "free: " + ", ".join(found), why)
