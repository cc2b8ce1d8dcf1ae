"""Which sound servers run, and for whom: PipeWire and PulseAudio serve one user each."""

from __future__ import annotations

from duplex_asr.doctor.host import Host, Person, Process

NAMES = {"pipewire-pulse": "PipeWire", "pipewire": "PipeWire", "pulseaudio": "PulseAudio"}


def servers(host: Host) -> list[Process]:
    """Running sound servers."""
    return host.processes(*NAMES)


def own_servers(host: Host, person: Person) -> list[Process]:
    """Those that serve this person."""
    return [each for each in servers(host) if each.uid == person.uid]


def others_servers(host: Host, person: Person) -> list[Process]:
    """Those that serve somebody else, and keep the sound cards for them."""
    return [each for each in servers(host) if each.uid != person.uid]


def kind_of(process: Process) -> str:
    return NAMES[process.name]


def is_reachable(host: Host, person: Person) -> bool:
    """Whether this person has a server, also one that starts with the first connection to its
    socket, or that the environment names, as in containers."""
    return (
        bool(own_servers(host, person))
        or host.exists(f"/run/user/{person.uid}/pulse/native")
        or (person == host.caller and bool(host.environ.get("PULSE_SERVER")))
    )
