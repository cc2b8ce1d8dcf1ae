"""Sound in, a loudspeaker that plays it, and what was really played and when out."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplex_asr.audio import playback_process
from duplex_asr.audio.playback_wire import (
    REPORT_KINDS,
    Beat,
    Flush,
    Gain,
    Order,
    Play,
    decode_report,
    encode_order,
)
from duplex_asr.audio.sample_clock import SampleClock
from duplex_asr.audio.sound_process import MAX_PIPE_BYTES, SoundProcess
from duplex_asr.errors import AudioError

# The process tells each second that it plays, be it silence; a device that asks for no sound for
# so long is gone. Some take their time to begin.
FIRST_BEAT_TIMEOUT_S = 15.0
LOST_AFTER_S = 3.0
PIECE_SAMPLES = 1 << 14

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True)
class PlayedBlock:
    """Sound that was given to the loudspeaker, with gain and fades as they were.

    start: index of the first sample within its generation; samples: int16, shape = (n,), at the
    speaker's rate; time_s: CLOCK_MONOTONIC at which the first one leaves the loudspeaker; is_last:
    silence follows, unless more is played this instant.
    position: of the first one, as the device counts, silence too, within a `stretch` in which it
    did so without a break; such counts are exact, while times are only believed. -1: unknown.
    drift_ppm: how much slower than its rate the device counts, as far as it is known.
    """

    generation: int
    start: int
    samples: Pcm
    time_s: float
    is_last: bool = False
    position: int = -1
    stretch: int = -1
    drift_ppm: float = 0.0


_stretches = itertools.count()  # of all speakers, since a new one begins to count anew


class Speaker:
    """Plays on one device until it is lost or this is killed.

    `play`, `flush`, `set_gain` and `kill` may be called from any thread and never wait; one thread
    iterates `blocks`, without which nothing is known to be played, and disposes.
    name: of the device, stable; rate: in Hz, chosen by the device; both known after `open`.
    num_underruns: how often the device had to wait for sound, as far as it tells.
    """

    def __init__(self, device: str, preferred_rate: int, is_again: bool = False) -> None:
        """Start the process; device: as `duplex-asr devices` shows it, empty for the default one.

        preferred_rate: in Hz, taken if the device can. is_again: `device` is the whole name, and
        what libraries have to say was said before.
        """
        self.name = device
        self.rate = preferred_rate
        self.num_underruns = 0
        self._label = f"speaker {device or 'default'!r}"
        self._is_killed = False
        self._failure = ""
        self._sending = threading.Lock()
        arguments = [device, "--rate", str(preferred_rate)]
        if is_again:
            arguments += ["--quiet", *(["--exact"] if device else [])]
        self._process = SoundProcess(
            playback_process.__name__, arguments, self._label, REPORT_KINDS, decode_report
        )

    def open(self) -> None:
        """Wait until the device is open; it plays silence then. AudioError if it cannot be."""
        opened = self._process.open()
        self.name, self.rate = opened.name, opened.rate
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # the system's limit may be lower
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MAX_PIPE_BYTES)
        os.set_blocking(self._process.stdin.fileno(), False)

    def play(self, generation: int, samples: Pcm) -> None:
        """Append samples (int16, shape = (n,), at `rate`) to what is played.

        The caller keeps at most two seconds ahead of what `blocks` tells. Samples of a generation
        older than the newest that was played or flushed to are dropped.
        """
        for start in range(0, len(samples), PIECE_SAMPLES):
            piece = samples[start : start + PIECE_SAMPLES]
            self._send(Play(generation, piece.astype(np.int16, copy=False).tobytes()))

    def flush(self, generation: int) -> None:
        """Fade out within 5 ms and forget all that is older than `generation`."""
        self._send(Flush(generation))

    def set_gain(self, gain: float) -> None:
        """Go to this gain, from 0 to 1, within 10 ms; a device that is opened anew begins at 1."""
        self._send(Gain(gain))

    def blocks(self) -> Iterator[PlayedBlock]:
        """Yield what is played, some tens of milliseconds before it is heard, until `kill`.

        Silence in between is not told. AudioError if the device is lost.
        """
        patience_s = FIRST_BEAT_TIMEOUT_S
        clock = SampleClock(self.rate, early_share=0.5)
        stretch = next(_stretches)
        while (report := self._process.next(patience_s)) is not None:
            patience_s = LOST_AFTER_S
            beat = report if isinstance(report, Beat) else report.beat
            if beat.num_underruns != self.num_underruns:  # the device has paused
                clock.begin_anew()
                self.num_underruns = beat.num_underruns
                stretch = next(_stretches)
            clock.push(beat.position, beat.heard_s)
            if not isinstance(report, Beat):
                samples = np.frombuffer(report.pcm, np.int16)
                time_s = clock.time_of(beat.position)
                yield PlayedBlock(
                    report.generation, report.start, samples, time_s, report.is_last,
                    beat.position, stretch, clock.drift_ppm,
                )  # fmt: skip
        if not self._is_killed:
            raise AudioError(self._failure or f"{self._label} was lost: its process ended")

    def kill(self) -> None:
        """End the process at once, whatever it hangs in; `open` and `blocks` end with it."""
        self._is_killed = True
        self._process.kill()

    def dispose(self) -> None:
        """Kill the process and let go of its pipes; to be called where blocks are read."""
        self._is_killed = True
        with self._sending:
            self._process.dispose()

    def _send(self, order: Order) -> None:
        data = encode_order(order)
        with self._sending:
            if self._process.stdin.closed:
                return  # disposed of
            try:
                num_sent = self._process.stdin.write(data)
            except BrokenPipeError:
                return  # `blocks` tells why
        if num_sent != len(data):
            self._failure = f"{self._label} was lost: it takes no more orders"
            self._process.kill()
