"""Sound servers, microphones and speakers of recorded machines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from duplex_asr.audio.sources import AudioConfig
from duplex_asr.config import Config
from duplex_asr.doctor import sound
from duplex_asr.doctor.heard import Heard, judge, measure
from duplex_asr.doctor.permissions import check_sound_nodes
from duplex_asr.doctor.trying import TONE_LEVEL, tone
from duplex_asr.tts.playback import PlaybackConfig
from tests.doctor.recorded import Machine

USB = "USB PnP Audio Device: Audio"


def of_source(source: str) -> Config:
    return Config(audio=AudioConfig(source=source))


def test_a_sound_server_of_the_same_user_that_answers_is_good(pc: Machine) -> None:
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert (found.level, found.what) == ("ok", "PulseAudio (on PipeWire 0.3.65) answers")


def test_a_system_service_beside_the_pipewire_of_a_person_is_told_to_become_a_user_unit(
    pc: Machine,
) -> None:
    pc.install_system_unit()
    passwd = (pc.root / "etc/passwd").read_text()
    pc.write("/etc/passwd", passwd + "duplex-asr:x:997:995::/var/lib/duplex-asr:/bin/false\n")
    (found,) = sound.check_sound_server(pc.examine("root"))
    assert found.level == "warning"
    assert "PipeWire runs for alice (uid 1000)" in found.what
    assert "duplex-asr (the service's user) is somebody else" in found.what
    assert "install.sh --user" in found.fix
    pc.write("/proc/asound/card0/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 1460\n")
    (found,) = sound.check_sound_server(pc.examine("root"))
    assert found.level == "failed" and "holds the microphone now (pid 1460)" in found.what
    status = {"state": "listening", "source": {"is_live": True}}
    pc.daemon("/run/duplex-asr", 811, "duplex-asr", status)
    (found,) = sound.check_sound_server(pc.examine("root"))
    assert found.level == "ok" and found.what.endswith("has its microphone all the same")


def test_a_sound_server_that_does_not_answer_is_named_with_its_restart(pc: Machine) -> None:
    pc.answer("pactl info", "", 1, "Connection failure: Connection refused\n")
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert found.level == "failed" and found.what.endswith("Connection refused")
    assert found.fix == "systemctl --user restart pipewire pipewire-pulse wireplumber"
    pc.environ.clear()
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert "XDG_RUNTIME_DIR is not set" in found.what
    assert found.fix == "export XDG_RUNTIME_DIR=/run/user/1000"


def test_a_missing_way_from_alsa_to_the_server_is_named(pc: Machine) -> None:
    pc.remove("/usr/lib/x86_64-linux-gnu/alsa-lib/libasound_module_pcm_pulse.so")
    assert [each.level for each in sound.check_sound_server(pc.examine("alice"))] == [
        "ok", "warning",
    ]  # fmt: skip


def test_a_sound_server_that_starts_with_the_first_connection_is_there(pc: Machine) -> None:
    for pid in (1460, 1463):
        pc.remove(f"/proc/{pid}/status")
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert found.level == "ok" and "ALSA" in found.what, "neither a server nor its socket"
    pc.write("/run/user/1000/pulse/native", "")
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert found.level == "ok" and found.what.endswith("answers")
    assert not list(check_sound_nodes(pc.examine("alice")))


def test_without_pactl_the_server_is_not_judged(pc: Machine) -> None:
    del pc.commands["pactl info"]
    (found,) = sound.check_sound_server(pc.examine("alice"))
    assert found.level == "not-checked" and "pulseaudio-utils" in found.fix


def test_a_board_without_a_server_uses_its_card_directly(jetson: Machine) -> None:
    (found,) = sound.check_sound_server(jetson.examine("nano"))
    assert found.level == "ok" and "ALSA" in found.what


def test_a_microphone_is_found_by_a_part_of_its_name(jetson: Machine) -> None:
    for source in ("microphone", "microphone:usb pnp"):
        (found,) = sound.check_microphone(jetson.examine("nano", of_source(source)))
        assert (found.level, found.what) == ("ok", f"{USB!r} is there, not opened")


def test_a_microphone_that_is_not_there_is_named_with_those_that_are(jetson: Machine) -> None:
    (found,) = sound.check_microphone(jetson.examine("nano", of_source("microphone:ReSpeaker")))
    assert found.level == "failed"
    assert "'ReSpeaker' does not exist" in found.what and USB in found.what
    assert found.fix == "duplex-asr devices"


def test_a_microphone_by_its_number_is_a_warning(jetson: Machine) -> None:
    warning, found = sound.check_microphone(jetson.examine("nano", of_source("microphone:0")))
    assert warning.level == "warning" and found.level == "ok"
    assert warning.fix == f'audio.source = "microphone:{USB}"'


def test_a_missing_portaudio_is_named_with_its_package(jetson: Machine) -> None:
    said = "duplex-asr: the PortAudio library is not installed, without which ...\n"
    jetson.answer("duplex-asr devices --json", "", 4, said)
    (found,) = sound.check_microphone(jetson.examine("nano"))
    assert found.level == "failed" and "PortAudio" in found.what
    assert found.fix == "sudo apt install libportaudio2"


def test_a_sound_server_that_hangs_is_waited_for_once(jetson: Machine) -> None:
    errors = "no answer within 10 s"
    jetson.answer("duplex-asr devices --json", "", 124, errors)
    exam = jetson.examine("nano")
    (microphone,) = sound.check_microphone(exam)
    del jetson.commands["duplex-asr devices --json"]
    (speaker,) = sound.check_speaker(exam)
    assert (microphone.level, speaker.level) == ("failed", "warning")
    assert microphone.what == speaker.what
    assert microphone.what.endswith("(no answer within 10 s): the sound server hangs")


def test_a_daemon_that_hears_a_file_needs_no_microphone(jetson: Machine) -> None:
    assert not list(sound.check_microphone(jetson.examine("nano", of_source("file:a.wav"))))


def test_a_machine_that_cannot_speak_is_a_warning_until_a_speaker_is_asked_for(
    jetson: Machine,
) -> None:
    row = json.loads(jetson.commands["duplex-asr devices --json"].output)
    jetson.answer("duplex-asr devices --json", json.dumps({**row, "output_channels": 0}) + "\n")
    (found,) = sound.check_speaker(jetson.examine("nano"))
    assert found.level == "warning" and "no speaker found" in found.what
    config = Config(playback=PlaybackConfig(device="HDMI"))
    (found,) = sound.check_speaker(jetson.examine("nano", config))
    assert found.level == "failed"


def test_a_microphone_that_a_silent_daemon_has_is_not_opened(jetson: Machine) -> None:
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", None)
    (found,) = sound.check_microphone(jetson.examine("nano", opens_devices=True))
    assert found.level == "not-checked" and "the running daemon has it" in found.what


def test_the_speaker_of_a_running_daemon_is_left_to_it(jetson: Machine) -> None:
    playback = {"speaker": USB, "is_open": True, "rate": 48_000, "underruns": 3}
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", {"playback": playback})
    (found,) = sound.check_speaker(jetson.examine("nano", opens_devices=True))
    assert found.what == f"{USB!r} is open in the daemon (48000 Hz, 3 gaps)"
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", {"playback": {"is_open": False}})
    (found,) = sound.check_speaker(jetson.examine("nano", opens_devices=True))
    assert (found.what, found.fix) == (f"{USB!r} is there, not opened", "duplex-asr say hello")


def test_who_has_the_card_is_known_from_the_kernel(jetson: Machine) -> None:
    assert sound.holders(jetson.host("nano"), "c") == []
    jetson.process(902, "arecord", 1000)
    status = jetson.root / "proc/902/status"
    jetson.write("/proc/904/status", status.read_text().replace("Pid:\t902", "Pid:\t904"))
    jetson.write("/proc/asound/card0/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 904\n")
    exam = jetson.examine("nano")
    assert [each.pid for each in sound.holders(exam.host, "c")] == [902], "904 is a thread of 902"
    assert sound.describe_busy(exam, "c") == "arecord (pid 902, nano) has it"
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", {"state": "listening"})
    jetson.process(902, "python3", 997, parent=811)
    assert sound.describe_busy(jetson.examine("nano"), "c") == (
        "the running duplex-asr (pid 811) has it, as it should"
    )
    assert sound.describe_busy(exam, "p") == ""


@pytest.mark.parametrize(
    ("heard", "level", "words"),
    [
        (Heard(-120, -120, 0), "failed", "nothing but zeros"),
        (Heard(-3, 0, 0.2), "warning", "20.0 % of it at full scale: overdriven"),
        (Heard(-91, -80, 0), "warning", "fainter than any room"),
        (Heard(-52, -31, 0), "ok", "peak -31 dBFS, RMS -52 dBFS"),
    ],
)
def test_a_level_is_judged(heard: Heard, level: str, words: str) -> None:
    found = judge(heard, "Mic")
    assert found.level == level and words in found.what and "'Mic'" in found.what


def test_a_level_is_that_of_the_loudest_channel() -> None:
    wave = np.sin(np.arange(16_000) / 5).astype(np.float32)
    heard = measure(np.stack([0.1 * wave, np.zeros_like(wave)], axis=1))
    assert heard.peak_dbfs == pytest.approx(-20, abs=0.1)
    assert heard.rms_dbfs == pytest.approx(-23, abs=0.1)
    assert measure(np.stack([wave * 0, wave * 2], axis=1)).clipped_share > 0.5
    assert measure(np.zeros((100, 1), np.float32)) == Heard(-120, -120, 0)


def test_the_tone_is_soft_and_does_not_click() -> None:
    wave = tone(48_000)
    assert wave.dtype == np.int16 and len(wave) == 24_000
    assert abs(int(wave[0])) < 5 and abs(int(wave[-1])) < 50
    assert np.abs(wave).max() == pytest.approx(32_767 * TONE_LEVEL, rel=0.01)


def test_a_number_for_a_speaker_is_a_warning(jetson: Machine) -> None:
    exam = jetson.examine("nano", replace(Config(), playback=PlaybackConfig(device="0")))
    warning, _ = sound.check_speaker(exam)
    assert warning.fix == f'playback.device = "{USB}"'
