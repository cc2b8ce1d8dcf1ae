"""Sound: the server that may stand between, the microphone and the speaker by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from duplex_asr.audio.device_names import Device, find_input_device, find_output_device
from duplex_asr.doctor import sound_servers
from duplex_asr.doctor.examination import Examination
from duplex_asr.doctor.finding import Finding
from duplex_asr.doctor.heard import judge
from duplex_asr.doctor.host import Host, Process
from duplex_asr.doctor.trying import hear, hear_through_daemon, play
from duplex_asr.errors import AudioError, ServiceError

HOW_TO_LIST = "duplex-asr devices"
ALSA_PLUGINS = (
    "/usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so",
    "/usr/lib/*/alsa-lib/libasound_module_pcm_pipewire.so",
    "/usr/lib*/alsa-lib/libasound_module_pcm_pulse.so",
    "/usr/lib*/alsa-lib/libasound_module_pcm_pipewire.so",
)
WHY_SERVER = (
    "who cannot reach the sound server has no microphone, and whom it bypasses finds the card busy"
)
WHY_MICROPHONE = "nothing is heard without it"
WHY_SPEAKER = "what the device is to say is not heard; `speaker-unavailable` is published instead"
USER_UNIT = "systemd/install.sh --user  # as that user, after sudo systemd/install.sh --uninstall"


def check_sound_server(exam: Examination) -> Iterator[Finding]:
    """Whether this kind of unit gets at the sound that there is: the classic failure.

    PipeWire and PulseAudio serve one user each and keep the cards open for them. A system service
    is another user: the server refuses it, and the card is busy.
    """
    host, person = exam.host, exam.person
    own = sound_servers.own_servers(host, person)
    others = sound_servers.others_servers(host, person)
    if sound_servers.is_reachable(host, person):
        yield from _check_own_server(exam, own)
    elif others and (person.is_system or exam.hears_microphone):
        server = others[0]
        kind = sound_servers.kind_of(server)
        owner = host.user_name(server.uid)
        what = (
            f"{kind} runs for {owner} (uid {server.uid}), and {person} is somebody else:"
            f" it serves {owner} alone and may hold the sound card"
        )
        if exam.daemon is not None and exam.daemon.is_listening:
            what += "; the daemon has its microphone all the same"
            yield Finding("sound server", "ok", what, WHY_SERVER)
            return
        held = [each for each in holders(host, "c") if each.uid == server.uid]
        yield Finding(
            "sound server", "failed" if held and exam.hears_microphone else "warning",
            what + (f"; it holds the microphone now (pid {held[0].pid})" if held else ""),
            'the microphone is then "busy" or silent, or the connection is refused,'
            " while by hand everything works",
            USER_UNIT if server.uid >= 1000 else f"run duplex-asr as {owner}: sudo -u {owner} ...",
        )  # fmt: skip
    else:
        yield Finding(
            "sound server", "ok", "none runs: the sound card is used directly (ALSA)", WHY_SERVER
        )


def _check_own_server(exam: Examination, own: list[Process]) -> Iterator[Finding]:
    host, person = exam.host, exam.person
    kind = sound_servers.kind_of(own[0]) if own else "the sound server"
    if person != host.caller:
        yield Finding(
            "sound server",
            "ok",
            f"{kind} is that of {person.name}, who runs the daemon",
            WHY_SERVER,
        )
        return
    restart = (
        "systemctl --user restart pulseaudio"
        if kind == "PulseAudio"
        else "systemctl --user restart pipewire pipewire-pulse wireplumber"
    )
    answer = host.run(("pactl", "info"))
    if answer is None:
        yield Finding(
            "sound server", "not-checked", f"{kind} is there, and no pactl to ask it", WHY_SERVER,
            "sudo apt install pulseaudio-utils",
        )  # fmt: skip
    elif answer.exit_code:
        said = (answer.errors or answer.output).strip().splitlines()
        what = f"{kind} does not answer: {said[-1] if said else f'exit code {answer.exit_code}'}"
        if not host.environ.get("XDG_RUNTIME_DIR") and not host.environ.get("PULSE_SERVER"):
            what += "; XDG_RUNTIME_DIR is not set, by which it is found"
            restart = f"export XDG_RUNTIME_DIR=/run/user/{person.uid}"
        yield Finding("sound server", "failed", what, WHY_SERVER, restart)
    else:
        name = re.search(r"^Server Name: (.+)$", answer.output, re.MULTILINE)
        yield Finding("sound server", "ok", f"{name[1] if name else kind} answers", WHY_SERVER)
        if not any(host.paths(pattern) for pattern in ALSA_PLUGINS):
            yield Finding(
                "sound server", "warning", "ALSA has no plugin that leads to it",
                "PortAudio, which duplex-asr uses, goes through ALSA, and finds the card busy",
                "sudo apt install libasound2-plugins",
            )  # fmt: skip


def holders(host: Host, direction: str) -> list[Process]:
    """Programs that have a sound card open now. direction: "c" captures, "p" plays."""
    found = {}
    for path in host.paths(f"/proc/asound/card*/pcm*{direction}/sub*/status"):
        owner = re.search(r"^owner_pid\s*:\s*(\d+)", host.text(path), re.MULTILINE)
        process = host.process(int(owner[1])) if owner else None
        if process is not None:
            found[process.pid] = process
    return list(found.values())


def describe_busy(exam: Examination, direction: str) -> str:
    """Who has the card, for a sentence; "" if nobody is known to."""
    for each in holders(exam.host, direction):
        if exam.daemon is not None and exam.daemon.pid in (each.pid, exam.host.parent_of(each.pid)):
            return f"the running duplex-asr (pid {exam.daemon.pid}) has it, as it should"
        return f"{each.name} (pid {each.pid}, {exam.host.user_name(each.uid)}) has it"
    return ""


def check_microphone(exam: Examination) -> Iterator[Finding]:
    """The configured microphone by name, and how loud it is."""
    if not exam.hears_microphone:
        return
    daemon = exam.daemon
    if daemon is not None and daemon.status is None:
        yield Finding(
            "microphone", "not-checked", "the running daemon has it and does not tell its level",
            WHY_MICROPHONE, "sudo duplex-asr doctor  # as root, or join the groups of its sockets",
        )  # fmt: skip
        return
    if daemon is not None and daemon.status and daemon.hears_a_microphone:
        name = (daemon.status.get("source") or {}).get("device") or "default"
        if daemon.is_listening:
            yield from _level("microphone", name, lambda: hear_through_daemon(daemon.folder))
        return  # any other state is a finding of the daemon's
    found = _find(exam, "microphone", find_input_device, exam.microphone, WHY_MICROPHONE)
    if isinstance(found, Finding):
        yield found
        return
    if exam.microphone.isdigit():
        yield _names_a_number("microphone", exam.microphone, found.name)
    if not exam.opens_devices:
        yield Finding("microphone", "ok", f"{found.name!r} is there, not opened", WHY_MICROPHONE)
        return
    yield from _level(
        "microphone", found.name, lambda: hear(found.name if exam.microphone else ""),
        lambda: describe_busy(exam, "c"),
    )  # fmt: skip


def _level(
    check: str, name: str, listen: Callable[[], object], describe_busy: Callable[[], str] = str
) -> Iterator[Finding]:
    try:
        heard = listen()
    except AudioError as error:
        busy = describe_busy()
        yield Finding(
            check, "failed", busy and f"{name!r} is busy: {busy}" or str(error), WHY_MICROPHONE,
            "fuser -v /dev/snd/*  # and end what has it, or use the sound server that has it",
        )  # fmt: skip
    except ServiceError as error:
        yield Finding(
            check, "not-checked", f"{name!r} is the daemon's, whose levels cannot be read: {error}",
            WHY_MICROPHONE, "duplex-asr listen",
        )  # fmt: skip
    else:
        yield judge(heard, name)  # type: ignore[arg-type]


def check_speaker(exam: Examination) -> Iterator[Finding]:
    """The configured speaker by name; opened, unless a daemon may want to speak meanwhile."""
    daemon = exam.daemon
    playback = (daemon.status or {}).get("playback") or {} if daemon is not None else {}
    if playback.get("is_open"):
        missed = playback.get("underruns") or 0
        yield Finding(
            "speaker", "ok", f"{playback.get('speaker') or 'default'!r} is open in the daemon"
            f" ({playback.get('rate')} Hz, {missed} gaps)", WHY_SPEAKER,
        )  # fmt: skip
        return
    wanted = exam.config.playback.device
    found = _find(exam, "speaker", find_output_device, wanted, WHY_SPEAKER)
    if isinstance(found, Finding):
        yield found
        return
    if wanted.isdigit():
        yield _names_a_number("speaker", wanted, found.name)
    if daemon is not None or not exam.opens_devices:
        what = f"{found.name!r} is there, not opened"
        fix = "duplex-asr say hello" if daemon is not None else ""
        yield Finding("speaker", "ok", what, WHY_SPEAKER, fix)
        return
    try:
        rate, played_ms = play(found.name if wanted else "", exam.plays_tone)
    except AudioError as error:
        busy = describe_busy(exam, "p")
        yield Finding(
            "speaker", "failed", busy and f"{found.name!r} is busy: {busy}" or str(error),
            WHY_SPEAKER,
            "fuser -v /dev/snd/*  # and end what has it, or use the sound server that has it",
        )  # fmt: skip
        return
    sound = "a tone" if exam.plays_tone else "silence (a tone with --tone)"
    yield Finding(
        "speaker", "ok", f"{found.name!r} played {played_ms:.0f} ms of {sound} at {rate} Hz",
        WHY_SPEAKER,
    )  # fmt: skip


def _find(
    exam: Examination,
    check: str,
    find: Callable[[str, list[Device]], Device],
    wanted: str,
    why: str,
) -> Device | Finding:
    devices = exam.devices
    # A device without a microphone or a speaker may be meant so, if nothing asks for it.
    level = "failed" if wanted or check == "microphone" else "warning"
    if isinstance(devices, str):
        fix = "sudo apt install libportaudio2" if "PortAudio" in devices else HOW_TO_LIST
        return Finding(check, level, devices, why, fix)  # type: ignore[arg-type]
    try:
        return find(wanted, devices)
    except AudioError as error:
        return Finding(check, level, str(error), why, HOW_TO_LIST)  # type: ignore[arg-type]


def _names_a_number(check: str, number: str, name: str) -> Finding:
    key = "audio.source" if check == "microphone" else "playback.device"
    value = f"microphone:{name}" if check == "microphone" else name
    return Finding(
        check, "warning", f"it is configured by its number {number}, which is {name!r} today",
        "numbers change when a device is plugged in or the sound server starts anew: another device"
        " is used then",
        f'{key} = "{value}"',
    )  # fmt: skip
