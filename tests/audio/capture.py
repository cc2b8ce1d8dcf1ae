"""Captures a microphone until standard input ends: run by tests in a sound card's environment.

Prints "capturing" when the first frame has come and a line for each notice, and at the end a JSON
object of what happened; the samples go to a .npy file, zeros for those that were lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time

import numpy as np

from duplex_asr.audio import recorder
from duplex_asr.audio.frames import FRAME_SAMPLES, Frame
from duplex_asr.audio.microphone import MicrophoneSource
from duplex_asr.errors import AudioError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--device", default="")
    parser.add_argument("--queue-ms", type=int, default=2_000)
    parser.add_argument("--lost-after-s", type=float, default=recorder.LOST_AFTER_S)
    parser.add_argument("--sleep-after-first-frame", type=float, default=0)
    args = parser.parse_args()
    recorder.LOST_AFTER_S = args.lost_after_s

    samples, num_lost, positions_are_whole = [], 0, True
    try:
        source = MicrophoneSource(args.device, args.queue_ms, silent_after_ms=0)
    except AudioError as exc:
        sys.exit(str(exc))

    def close_at_end_of_input() -> None:
        sys.stdin.read()
        source.close()

    closer = threading.Thread(target=close_at_end_of_input)
    is_lost = False
    for each in source.frames():
        if not isinstance(each, Frame):
            print(each.kind, each.text, flush=True)
            is_lost = True
            continue
        gap = each.position - FRAME_SAMPLES * len(samples)
        if is_lost and gap:
            num_lost += gap
            samples += [np.zeros(FRAME_SAMPLES, np.float32)] * (gap // FRAME_SAMPLES)
            is_lost = False
        positions_are_whole &= each.position == FRAME_SAMPLES * len(samples)
        if not samples:
            started = time.monotonic()
            print("capturing", flush=True)
            closer.start()
            threading.Event().wait(args.sleep_after_first_frame)
        samples.append(each.samples)
    np.save(args.output, np.concatenate(samples))
    report = {
        "rate": source.rate,
        "name": source.name,
        "num_overflows": source.num_overflows,
        "positions_are_whole": positions_are_whole,
        "num_lost": num_lost,
        "took_s": time.monotonic() - started,
    }
    print(json.dumps(report), flush=True)
    closer.join()


if __name__ == "__main__":
    main()
