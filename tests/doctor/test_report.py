"""Findings as people and programs read them."""

from __future__ import annotations

from duplex_asr.doctor.finding import Finding
from duplex_asr.doctor.report import as_lines, as_object, counts, summary

GOOD = Finding("disk", "ok", "18000 MB free", "it fills up")
BAD = Finding(
    "sound access", "failed", "nano may not use /dev/snd/pcmC0D0c, as it is not in the group audio",
    "without it there is no microphone", "sudo usermod -aG audio nano",
)  # fmt: skip


def test_what_is_good_is_one_line() -> None:
    assert as_lines(GOOD, 80, is_coloured=False) == ("ok           disk            18000 MB free")


def test_what_is_bad_says_why_and_its_command_on_a_line_of_its_own() -> None:
    lines = as_lines(BAD, 80, is_coloured=False).splitlines()
    assert lines[0].startswith("failed       sound access    nano may not use")
    assert lines[-2:] == [
        f"{'':29}why: without it there is no microphone",
        f"{'':29}fix: sudo usermod -aG audio nano",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_a_command_is_never_broken_so_that_it_can_be_copied() -> None:
    long = Finding("swap", "warning", "none", "why", "sudo " + "x " * 100 + "end")
    assert as_lines(long, 60, is_coloured=False).splitlines()[-1].endswith(long.fix)


def test_colours_are_for_terminals_alone() -> None:
    assert "\x1b" not in as_lines(BAD, 80, is_coloured=False)
    assert as_lines(BAD, 80, is_coloured=True).startswith("\x1b[31mfailed       \x1b[0msound")


def test_levels_are_counted() -> None:
    assert counts([GOOD, BAD, GOOD]) == {"ok": 2, "warning": 0, "failed": 1, "not-checked": 0}
    assert summary([GOOD, BAD]) == "1 ok, 0 warnings, 1 failed, 0 not checked"


def test_programs_get_everything() -> None:
    found = as_object([GOOD, BAD], "1.0")
    assert found["version"] == "1.0" and found["counts"]["failed"] == 1
    assert found["findings"][1] == {
        "check": "sound access", "level": "failed", "what": BAD.what, "why": BAD.why,
        "fix": BAD.fix,
    }  # fmt: skip
