"""A microphone in, frames out, through whatever happens to it: it is lost and found again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from duplex_asr.audio.capture_process import BLOCK_MS
from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Frame, FrameCutter, Samples
from duplex_asr.audio.input_check import InputCheck
from duplex_asr.audio.recorder import Block, Recorder
from duplex_asr.audio.records import DeviceFormat
from duplex_asr.audio.resampling import Resampler, mix_to_mono
from duplex_asr.audio.sample_clock import SampleClock
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.errors import AudioError

# A sound server that restarts is back in less than a second; a device that was unplugged may stay
# away for days.
FIRST_DELAY_S, MAX_DELAY_S = 0.25, 5.0
# Blocks come late by up to what a sound server gathers, and hardly ever early: with 0.1 the drift
# that was found scattered twice as much.
EARLY_SHARE = 0.02

logger = logging.getLogger(__name__)


class MicrophoneSource:
    """Frames of a microphone, at 16 kHz if it can and otherwise at its own rate, converted.

    Up to `capture_queue_ms` of sound wait for the reader. What does not fit is lost and counted,
    and zeros stand in its place, so that positions keep telling time.
    So they do while the microphone is lost: the first frame after it has a later position.
    num_overflows: blocks lost so, plus losses that the sound system has reported itself.
    """

    is_live = True
    is_paced = True

    def __init__(
        self,
        device: str,
        capture_queue_ms: int,
        silent_after_ms: int,
        may_be_missing: bool = False,
        opening: Callable[[Callable[[], None]], None] = lambda give_up: None,
    ) -> None:
        """Open the input device that `device` names, or the default one if empty; AudioError.

        It does not record before `frames` is iterated: until then nobody wants to be heard.
        may_be_missing: one that cannot be opened is lost from the beginning, and no error.
        opening: is given what ends that at once, before it is waited for.
        """
        self._wanted = device
        self._capture_queue_ms = capture_queue_ms
        self._silent_after_ms = silent_after_ms
        self._earlier_overflows = 0
        self._position = 0  # of the next frame
        self._heard_at = time.monotonic()  # when the last block came
        self._is_lost = False
        self._delay_s = FIRST_DELAY_S
        self._closed = threading.Event()
        self._changing = threading.Lock()  # the recorder must not change while it is being killed
        self._is_iterated = False
        self._clock = SampleClock(SAMPLE_RATE, EARLY_SHARE)
        self.missing_because = ""
        self._is_found = False
        self.device = device
        self.name = f"microphone:{device}" if device else "microphone"
        self._recorder = Recorder(device, capture_queue_ms, is_quiet=False, is_exact=False)
        opening(self._recorder.kill)
        try:
            self._open()
        except AudioError as exc:
            if not may_be_missing:
                self._recorder.dispose()
                raise
            self.missing_because = str(exc)

    @property
    def num_overflows(self) -> int:
        return self._earlier_overflows + self._recorder.num_overflows

    @property
    def rate(self) -> int:
        """What the device is recorded with, in Hz."""
        return self._recorder.format.rate

    def time_of(self, position: int) -> float:
        """CLOCK_MONOTONIC at which the sample at this position was captured, within some 20 ms and
        smooth; to be called where frames are read."""
        return self._clock.time_of(position)

    def frames(self) -> Iterator[Frame | SourceNotice]:
        """Start to record; yield frames until `close`, and a notice where something is wrong."""
        with self._changing:
            self._is_iterated = True
        try:
            if self.missing_because:
                yield self._lose(self.missing_because)
                self._reopen()
            while not self._closed.is_set():
                try:
                    yield from self._record()
                    reason = f"microphone {self.device!r} was lost: its recording process ended"
                except AudioError as exc:
                    reason = str(exc)
                if self._closed.is_set():
                    return
                if not self._is_lost:
                    yield self._lose(reason)
                self._reopen()
        finally:
            self.close()
            self._recorder.dispose()

    def close(self) -> None:
        """Wake up and end `frames`; may be called from any thread, and twice."""
        with self._changing:
            self._closed.set()
            self._recorder.kill()
            if not self._is_iterated:
                self._recorder.dispose()

    def _record(self) -> Iterator[Frame | SourceNotice]:
        """What the present recorder hears until it is killed; AudioError if the device is lost."""
        stream: BlockStream | None = None
        for block in self._recorder.blocks():
            now = time.monotonic()
            if self._is_lost:
                yield self._find(now - self._heard_at)
            if stream is None:
                stream = BlockStream(self._recorder.format, self._position, self._silent_after_ms)
                self._clock.begin_anew()
            self._heard_at = now
            self._clock.push(stream.position_of(block), block.captured_s)
            yield from stream.push(block)
            self._position = stream.next_position

    def _open(self) -> None:
        self._recorder.open()
        self._is_found = True
        self.device = self._recorder.format.name
        if self._wanted:
            self.name = f"microphone:{self.device}"

    def _lose(self, reason: str) -> SourceNotice:
        self._is_lost = True
        logger.warning("%s; it will be opened again", reason)
        return SourceNotice("lost", reason)

    def _find(self, lost_s: float) -> SourceNotice:
        """The microphone is heard again: let the position tell the time that has passed."""
        again = " again" if self._position else ""
        self._is_lost = False
        self._delay_s = FIRST_DELAY_S
        self._position += lost_samples(lost_s)
        text = f"microphone {self.device!r} is heard{again} after {lost_s:.1f} s"
        logger.info(text)
        return SourceNotice("listening", text)

    def _reopen(self) -> None:
        """Wait and try until the device is open or this is closed."""
        # By the name that was found at first: a part of it or an index may now fit another device.
        device = self.device if self._wanted else ""
        while not self._closed.wait(self._delay_s):
            self._delay_s = min(2 * self._delay_s, MAX_DELAY_S)
            self._recorder.dispose()
            with self._changing:
                if self._closed.is_set():
                    return
                self._earlier_overflows += self._recorder.num_overflows
                self._recorder = Recorder(
                    device, self._capture_queue_ms, is_quiet=True, is_exact=self._is_found
                )
            try:
                self._open()
                return
            except AudioError as exc:
                logger.debug("%s", exc)


def lost_samples(elapsed_s: float) -> int:
    """Samples at 16 kHz, in whole frames, that pass by until a block has been recorded."""
    lost = int((elapsed_s - BLOCK_MS / 1000) * SAMPLE_RATE)
    return max(0, lost - lost % FRAME_SAMPLES)


class BlockStream:
    """The blocks of one recorder as frames; what is missing between two of them is zeros."""

    def __init__(self, capture: DeviceFormat, position: int, silent_after_ms: int) -> None:
        self._rate = capture.rate
        self._first_position = position
        self._resampler = Resampler(capture.rate)
        self._check = InputCheck(capture.name, capture.rate, silent_after_ms)
        self._cutter = FrameCutter(position)
        self._num_heard = 0  # samples of the device, lost ones too

    @property
    def next_position(self) -> int:
        return self._cutter.position

    def position_of(self, block: Block) -> int:
        """Position of the block's first sample, when it is a frame's."""
        return self._first_position + block.position * SAMPLE_RATE // self._rate

    def push(self, block: Block) -> Iterator[Frame | SourceNotice]:
        for gap in self._silence(block.position - self._num_heard):
            yield from self._cutter.push(self._resampler.push(gap))
        self._num_heard = block.position + len(block.samples)
        yield from self._check.push(block.samples)
        yield from self._cutter.push(self._resampler.push(mix_to_mono(block.samples)))

    def _silence(self, num_samples: int) -> Iterator[Samples]:
        """Zeros for lost sound, in pieces of at most a second."""
        while num_samples > 0:
            yield np.zeros(min(num_samples, self._rate), np.float32)
            num_samples -= self._rate
