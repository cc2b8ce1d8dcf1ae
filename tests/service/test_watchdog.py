from __future__ import annotations

import pytest

from duplex_asr.service.watchdog import Pulse, Watchdog, WatchdogConfig

CONFIG = WatchdogConfig(decode_budget_ms=2_000, synthesis_budget_ms=3_000, load_budget_ms=4_000)


def test_all_is_well_while_frames_come() -> None:
    watchdog = Watchdog(CONFIG)
    assert [
        watchdog.starved_by(Pulse(must_hear=True, num_frames=frames), 0.0)
        for frames in (0, 1, 900, 901)
    ] == [None] * 4


def test_it_starves_when_no_frame_has_come_between_two_looks_and_recovers() -> None:
    watchdog = Watchdog(CONFIG)
    assert watchdog.starved_by(Pulse(must_hear=True, num_frames=7), 0.0) is None
    assert "no sound has come" in (
        watchdog.starved_by(Pulse(must_hear=True, num_frames=7), 15.0) or ""
    )
    assert watchdog.starved_by(Pulse(must_hear=True, num_frames=8), 30.0) is None


def test_a_microphone_that_is_known_to_be_lost_starves_nothing() -> None:
    watchdog = Watchdog(CONFIG)
    for must_hear in (True, False, False, True):
        assert watchdog.starved_by(Pulse(must_hear, num_frames=7), 0.0) is None
    assert watchdog.starved_by(Pulse(True, num_frames=7), 0.0) is not None


@pytest.mark.parametrize(
    ("pulse", "now_s", "said"),
    [
        (Pulse(decode_since_s=10.0), 12.0, None),
        (
            Pulse(decode_since_s=10.0),
            12.1,
            "transcribing an utterance has taken 2.1 s, and its budget is 2 s",
        ),
        (Pulse(synthesis_since_s=10.0), 13.0, None),
        (
            Pulse(load_since_s=10.0),
            15.0,
            "loading an engine or a voice has taken 5.0 s, and its budget is 4 s",
        ),
        (
            Pulse(synthesis_since_s=10.0),
            20.0,
            "speaking a sentence has taken 10.0 s, and its budget is 3 s",
        ),
    ],
)
def test_work_starves_it_when_it_is_older_than_its_budget(
    pulse: Pulse, now_s: float, said: str | None
) -> None:
    assert Watchdog(CONFIG).starved_by(pulse, now_s) == said
