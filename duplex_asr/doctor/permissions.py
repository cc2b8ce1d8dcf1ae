"""Who may use what: device nodes of GPU and sound card, folders of the engine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from duplex_asr.doctor.examination import SYSTEM_UNIT, Examination
from duplex_asr.doctor.finding import Finding
from duplex_asr.doctor.host import Host, Person
from duplex_asr.doctor.sound_servers import is_reachable

HIDDEN_HOMES = ("/home/", "/root/", "/run/user/")
READ_WRITE = os.R_OK | os.W_OK
WHY_GPU = (
    'without them CUDA finds no device ("NvRmMemInitNvmap failed", cuInit 100, "no CUDA device")'
)


def check_gpu_nodes(exam: Examination) -> Iterator[Finding]:
    """Device files of the GPU: of a Jetson always, of a PC where something is to run on it."""
    host = exam.host
    if exam.is_jetson:
        # /dev/nvmap may be read-only for its group; a render node needs both.
        nodes = {"/dev/nvmap": os.R_OK}
        nodes |= {node: READ_WRITE for node in host.paths("/dev/dri/renderD*")}
    elif exam.uses_gpu:
        nodes = {"/dev/nvidiactl": READ_WRITE, "/dev/nvidia0": READ_WRITE}
    else:
        return
    gpu_drop_in = f"{SYSTEM_UNIT}.d/gpu.conf"
    if exam.uses_gpu and exam.unit is not None and exam.unit.is_system:
        if not host.exists(gpu_drop_in):
            yield Finding(
                "GPU access", "failed", f"the service has no {gpu_drop_in}: its sandbox hides the"
                " GPU", WHY_GPU,
                "sudo systemd/install.sh --gpu && sudo systemctl restart duplex-asr",
            )  # fmt: skip
            return
    missing = [node for node in nodes if host.node(node) is None]
    if missing:
        yield Finding(
            "GPU access", "failed" if exam.uses_gpu else "warning",
            f"{' and '.join(missing)} {'does' if len(missing) == 1 else 'do'} not exist here",
            WHY_GPU,
            "sudo dmesg | grep -i nv  # the driver is not loaded, or this is a container",
        )  # fmt: skip
        return
    yield _access(exam, "GPU access", nodes, WHY_GPU, is_needed=exam.uses_gpu)


def check_sound_nodes(exam: Examination) -> Iterator[Finding]:
    """Device files of the sound cards, unless a sound server of the same user stands between."""
    if is_reachable(exam.host, exam.person):
        return
    host = exam.host
    why = "without them there is no microphone and no speaker"
    nodes = {node: READ_WRITE for node in host.paths("/dev/snd/pcm*") or []}
    if not nodes:
        if exam.hears_microphone:
            yield Finding(
                "sound access", "failed", "/dev/snd has no sound card, and no sound server runs",
                why, "lsusb; cat /proc/asound/cards  # plug one in, or give it to this container",
            )  # fmt: skip
        return
    yield _access(exam, "sound access", nodes, why, is_needed=True)


def _access(
    exam: Examination, check: str, nodes: dict[str, int], why: str, is_needed: bool
) -> Finding:
    """Whether the person may use all of these device files, and which groups they are for."""
    host, person = exam.host, exam.person
    found = {path: host.node(path) for path in nodes}
    groups = sorted({host.group_name(each.gid) for each in found.values() if each is not None})
    closed = [path for path, wanted in nodes.items() if not host.may(person, path, wanted)]
    if not closed:
        shown = f"{len(nodes)} device files" if len(nodes) > 3 else ", ".join(nodes)
        return Finding(check, "ok", f"{person} may use {shown} ({', '.join(groups)})", why)
    needed = sorted({host.group_name(each.gid) for path in closed if (each := found[path])})
    shown = ", ".join(closed[:3]) + (" ..." if len(closed) > 3 else "")
    what = f"{person} may not use {shown}: not in {', '.join(needed)}"
    if all(group in groups_on_paper(host, person) for group in needed):
        what += ", or not yet"
        fix = "log in again, or restart the service: groups are read at the beginning of a session"
    elif person.name == "root":
        fix = f"ls -l {closed[0]}  # even root may not: a container or a sandbox hides it"
    else:
        fix = f"sudo usermod -aG {','.join(needed)} {person.name}  # then log in again"
        if person.is_system:
            fix = (
                f"sudo usermod -aG {','.join(needed)} {person.name} &&"
                " sudo systemctl restart duplex-asr"
            )
    return Finding(check, "failed" if is_needed else "warning", what, why, fix)


def groups_on_paper(host: Host, person: Person) -> set[str]:
    """Groups that /etc/group gives somebody, which a session from before does not have yet."""
    return {name for name, (_, members) in host.groups().items() if person.name in members}


def check_files(exam: Examination) -> Iterator[Finding]:
    """Whether the engine's and the voice's files can be reached by who is to read them."""
    voice = exam.config.voice
    places = [str(exam.engine_folder.absolute())] if exam.engine_folder is not None else []
    places += [str(Path(each).expanduser().absolute()) for each in (voice.path,) if each]
    if not places or exam.person == exam.host.caller:
        return  # whoever runs this reads them in a moment
    why = "the service cannot read its engine, and ends with exit code 3"
    for place in places:
        closed = closed_folder(exam.host, exam.person, place)
        what = f"{exam.person} may not enter {closed}, on the way to {place}"
        if not closed and exam.unit is not None and exam.unit.is_system:
            closed = next((home for home in HIDDEN_HOMES if place.startswith(home)), "")
            what = f"{place} is in a home folder, which the service does not see (ProtectHome=)"
        if closed:
            yield Finding(
                "files", "failed", what, why,
                f"sudo cp -r {place} /var/lib/duplex-asr/  # and configure the copy",
            )  # fmt: skip
        else:
            yield Finding("files", "ok", f"{exam.person} may enter {place}", why)


def closed_folder(host: Host, person: Person, place: str) -> str:
    """The first folder on the way to a place that somebody may not enter; "" if there is none."""
    path = Path(place)
    for folder in (*reversed(path.parents), path):
        node = host.node(str(folder))
        if (
            node is not None
            and stat.S_ISDIR(node.mode)
            and not host.may(person, str(folder), os.X_OK)
        ):
            return str(folder)
    return ""
