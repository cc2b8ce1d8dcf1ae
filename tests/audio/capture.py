"""Captures a microphone until standard input ends: run by tests in a sound card's environment.

Prints "capturing" when the first frame has come, and at the end a JSON object of what happened;
the samples go to a .npy file.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading

import numpy as np
import sounddevice

from duplex_asr.audio.devices import MicrophoneSource
from duplex_asr.errors import AudioError


def refuse_rate(refused: int) -> None:
    """Make PortAudio behave like a card that cannot run at this rate."""
    check = sounddevice.check_input_settings

    def refusing_check(*args: object, samplerate: int, **kwargs: object) -> None:
        if samplerate == refused:
            raise sounddevice.PortAudioError("Invalid sample rate", -9997)
        check(*args, samplerate=samplerate, **kwargs)

    sounddevice.check_input_settings = refusing_check


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--device", default="")
    parser.add_argument("--queue-ms", type=int, default=2_000)
    parser.add_argument("--refuse-rate", type=int)
    parser.add_argument("--sleep-after-first-frame", type=float, default=0)
    args = parser.parse_args()
    if args.refuse_rate:
        refuse_rate(args.refuse_rate)

    frames, error = [], None
    try:
        source = MicrophoneSource(args.device, args.queue_ms)
    except AudioError as exc:
        sys.exit(str(exc))

    def close_at_end_of_input() -> None:
        sys.stdin.read()
        source.close()

    closer = threading.Thread(target=close_at_end_of_input)
    try:
        for frame in source.frames():
            if not frames:
                print("capturing", flush=True)
                closer.start()
                threading.Event().wait(args.sleep_after_first_frame)
            frames.append(frame)
    except AudioError as exc:
        error = str(exc)
    np.save(args.output, np.concatenate([frame.samples for frame in frames]))
    report = {
        "rate": source.rate,
        "name": source.name,
        "num_overflows": source.num_overflows,
        "positions_are_whole": all(
            frame.position == 160 * index for index, frame in enumerate(frames)
        ),
        "error": error,
    }
    print(json.dumps(report), flush=True)
    closer.join()


if __name__ == "__main__":
    main()
