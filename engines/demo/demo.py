"""What `make demo` runs: the real daemon hears a recording, and a client shows its transcripts.

Daemon and client are two processes that meet on a Unix socket, as on a device; the only difference
is that the microphone is a recording, played at the pace at which people spoke.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(os.path.relpath(Path(__file__).parent))
RECORDING = FOLDER / "demo.flac"
EXPECTED = FOLDER / "demo.json"
DUPLEX_ASR = [sys.executable, "-m", "duplex_asr"]


def main() -> int:
    if not RECORDING.is_file():
        print(f"{RECORDING} is missing: clone the repository again", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="duplex-asr-demo-") as runtime_dir:
        return run(Path(runtime_dir))


def run(runtime_dir: Path) -> int:
    serve = [
        *DUPLEX_ASR, "serve", "--engine", str(FOLDER), "--source", f"file:{RECORDING}",
        "--runtime-dir", str(runtime_dir), "--wait-for-listener", "--exit-at-end",
    ]  # fmt: skip
    started = time.monotonic()
    print(f"$ duplex-asr {' '.join(serve[3:])} &", flush=True)
    daemon = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    log = []
    for line in daemon.stderr:  # the daemon says when its sockets are open
        log.append(line)
        if "sockets are in" in line:
            break
    else:
        print("".join(log), file=sys.stderr)
        return daemon.wait() or 1
    open_s = time.monotonic() - started
    print(f"$ duplex-asr listen --runtime-dir {runtime_dir}", flush=True)
    listen = [*DUPLEX_ASR, "listen", "--runtime-dir", str(runtime_dir)]
    exit_code = subprocess.run(listen, check=False).returncode
    daemon.communicate()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"\nThe sockets were open after {open_s:.1f} s. The largest process took at most "
        f"{used.ru_maxrss / 1024:.0f} MB; daemon and client together used "
        f"{used.ru_utime + used.ru_stime:.1f} s of processor time for "
        f"{time.monotonic() - started:.0f} s."
    )
    spoken = [each["text"] or "(something else)" for each in json.loads(EXPECTED.read_text())]
    print("What people said:", ", ".join(spoken))
    return exit_code or daemon.returncode


if __name__ == "__main__":
    sys.exit(main())
