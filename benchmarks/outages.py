"""Whether every utterance is accounted for while the sound server is killed again and again.

    python benchmarks/outages.py [--times 20] [--json FILE]

The demo recording is played into the microphone of a software sound card (PulseAudio), and the
server is killed at a random moment of it, while somebody speaks or not; then a new one is started.
unaccounted: utterances without a transcript, a rejection or an error; lost_ms: from the kill to the
state "lost"; heard_again_ms: from the new server's answer to the state "listening".
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from duplex_asr.service.client import EventReader
from tests.daemon_process import DEMO, read_until, running_daemon
from tests.soundcard import missing_programs, open_sound_card

ENDINGS = ("transcript", "utterance-rejected", "error")
LATEST_S = 9.0  # of the recording, by which somebody has spoken several times


def run(folder: Path, times: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    kinds: Counter[str] = Counter()
    started, ended, lost_ms, again_ms = set(), Counter[str](), [], []

    def note(events: list[dict[str, Any]]) -> None:
        for each in events:
            kinds[each["type"]] += 1
            if each["type"] == "voice-started":
                started.add(each["id"])
            elif each["type"] in ENDINGS and "id" in each:
                ended[each["id"]] += 1

    with ExitStack() as servers:
        card = servers.enter_context(open_sound_card(folder))
        with running_daemon(folder / "run", "--source", "microphone", env=card.env) as daemon:
            with EventReader(folder / "run" / "events.sock") as reader:
                note(read_until(reader, "state:listening"))
                for number in range(times):
                    with card.start_playing(DEMO / "demo.flac"):
                        time.sleep(chance.uniform(1.0, LATEST_S))
                        card.unplug()
                        killed = time.monotonic()
                    note(read_until(reader, "state:lost"))
                    lost_ms.append(1000 * (time.monotonic() - killed))
                    servers.close()
                    card = servers.enter_context(open_sound_card(folder))
                    opened = time.monotonic()
                    note(read_until(reader, "state:listening"))
                    again_ms.append(1000 * (time.monotonic() - opened))
                    print(f"{number + 1} of {times}: {dict(kinds)}", file=sys.stderr)
                daemon.terminate()
                note([json.loads(line) for line in reader])
    return {
        "kills": times,
        "events": dict(kinds),
        "utterances": len(started),
        "unaccounted": sorted(started - ended.keys()),
        "more_than_once": [name for name, count in ended.items() if count > 1],
        "lost_ms": [round(statistics.median(lost_ms)), round(max(lost_ms))],
        "heard_again_ms": [round(statistics.median(again_ms)), round(max(again_ms))],
        "exit_code": daemon.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := missing_programs():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.times, options.seed)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
