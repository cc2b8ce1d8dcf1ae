"""All checks together: what is shown on which machine, deadlines, and checks that go wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from duplex_asr.doctor.checks import Check, Examiner
from duplex_asr.doctor.examination import Examination
from duplex_asr.doctor.finding import LEVELS, Finding
from tests.doctor.recorded import Machine

GOOD = Finding("good", "ok", "it is", "it must be")


def check_good(_exam: Examination) -> Iterator[Finding]:
    yield GOOD


def levels(examination: Examination) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in Examiner().findings(lambda: examination):
        found.setdefault(each.check, []).append(each.level)
    return found


def test_a_good_board_fails_nothing_and_shows_what_only_boards_have(jetson: Machine) -> None:
    found = levels(jetson.examine("nano"))
    assert {"board", "power mode", "clocks", "swap", "GPU access", "sound access"} <= found.keys()
    assert "failed" not in sum(found.values(), []) and "not-checked" not in sum(found.values(), [])
    assert found["swap"] == ["warning"], "zram alone"


def test_a_pc_is_not_shown_what_only_boards_have(pc: Machine) -> None:
    found = levels(pc.examine("alice"))
    assert found.keys() == {
        "configuration", "daemon", "memory", "disk", "sound server", "microphone", "speaker",
        "engine", "voice",
    }  # fmt: skip
    assert set(sum(found.values(), [])) == {"ok"}


def test_the_faulty_release_of_the_board_is_the_only_new_finding(jetson: Machine) -> None:
    before = levels(jetson.examine("nano"))
    jetson.replace("/etc/nv_tegra_release", "REVISION: 4.3", "REVISION: 4.7")
    assert levels(jetson.examine("nano")) == before | {"board": ["warning"]}


def test_every_finding_says_what_and_why_and_every_bad_one_the_way_out(
    jetson: Machine, pc: Machine
) -> None:
    exams = [jetson.examine("nano"), jetson.examine("root"), pc.examine("alice")]
    jetson.root.joinpath("etc/nvpmodel.conf").unlink()
    exams.append(jetson.examine("root", config_problem="wrong"))
    for exam in exams:
        for each in Examiner().findings(lambda exam=exam: exam):
            assert each.what and each.why and each.level in LEVELS
            assert each.fix or each.level == "ok"


def test_a_check_that_hangs_is_left_behind_and_the_others_go_on(pc: Machine) -> None:
    may_end = threading.Event()

    def hang(_exam: Examination) -> Iterator[Finding]:
        assert may_end.wait(60)
        yield GOOD

    examiner = Examiner([Check("hung", hang, 0.01), Check("good", check_good)])
    try:
        hung, good = examiner.findings(lambda: pc.examine("alice"))
    finally:
        may_end.set()
    assert good == GOOD
    assert (hung.check, hung.level) == ("hung", "not-checked") and examiner.has_stuck_checks


def test_a_check_that_goes_wrong_is_named_and_the_others_go_on(pc: Machine) -> None:
    def fail(_exam: Examination) -> Iterator[Finding]:
        yield GOOD
        raise KeyError("x")

    examiner = Examiner([Check("wrong", fail), Check("good", check_good)])
    wrong, good = examiner.findings(lambda: pc.examine("alice"))
    assert good == GOOD
    assert wrong.level == "not-checked" and "KeyError: 'x'" in wrong.what
    assert not examiner.has_stuck_checks
