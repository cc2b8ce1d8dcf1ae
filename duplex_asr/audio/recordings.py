"""A path in, the samples of its recording out, block by block and in one direction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import soundfile

from duplex_asr.audio.frames import Samples
from duplex_asr.audio.resampling import check_pcm_format, pcm_values
from duplex_asr.audio.wav import WavFormat, WavHeader
from duplex_asr.errors import AudioError

HEADER_BYTES = 65_536
# Title of a recording by `serve --save-session`: its first channel is what was heard; the others
# are not to be mixed into it.
SESSION_TITLE = "duplex-asr session: heard, played, microphone"
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's word for a length that only the end will tell


class Recording(Protocol):
    """An open recording, read to its end once.

    announced_frames: samples a channel that the header promises; 0 if it does not tell.
    """

    rate: int
    announced_frames: int

    def read(self, num_frames: int) -> Samples:
        """The next samples, float32, shape = (n, channels); none at the end. AudioError: it is
        damaged."""
        ...

    def close(self) -> None: ...


class SndfileRecording:
    """WAV, FLAC, OGG, Opus and what else libsndfile reads."""

    def __init__(self, path: Path, wav: WavFormat | None) -> None:
        self._path = path
        try:
            self._file = ForwardOnlyFile(os.fsencode(path))  # the name need not be UTF-8
        except soundfile.LibsndfileError as exc:
            raise AudioError(
                f"{path} is not a recording that can be read ({exc.error_string.rstrip('.')}):"
                " use WAV, FLAC, OGG or Opus"
            ) from exc
        self.rate: int = self._file.samplerate
        self._is_session = self._file.title == SESSION_TITLE
        is_known = self._file.frames != UNKNOWN_FRAMES
        # libsndfile takes a truncated WAV file for a shorter one.
        self.announced_frames: int = wav.num_frames if wav is not None else 0
        self.announced_frames = self.announced_frames or (self._file.frames if is_known else 0)
        try:
            check_pcm_format(self.rate, width=2, channels=self._file.channels)
            if self._file.frames == 0:
                raise _no_samples(path)
        except AudioError:
            self.close()
            raise

    def read(self, num_frames: int) -> Samples:
        try:
            block: Samples = self._file.read(num_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as exc:
            raise AudioError(
                f"{self._path} is damaged: {exc.error_string} Record or copy it again"
            ) from exc
        return block[:, :1] if self._is_session else block

    def close(self) -> None:
        self._file.close()


class ForwardOnlyFile(soundfile.SoundFile):  # type: ignore[misc]
    """A recording of a length that may not be known."""

    def seekable(self) -> bool:
        """No: soundfile would seek after each read, which at the end of a FLAC file of unknown
        length fails, and takes the last samples with it."""
        return False


class PipedWav:
    """A WAV file with the length 0 in its header, since it was written to a pipe: its samples go
    on to the end of the file. libsndfile finds none in it."""

    announced_frames = 0

    def __init__(self, path: Path, wav: WavFormat, data_at: int) -> None:
        """data_at: place of the first sample in the file, in bytes."""
        check_pcm_format(wav.rate, wav.width, wav.channels, wav.is_float)
        self.rate = wav.rate
        self._path = path
        self._wav = wav
        if path.stat().st_size - data_at < wav.bytes_a_frame:
            raise _no_samples(path)
        self._file = path.open("rb")
        self._file.seek(data_at)

    def read(self, num_frames: int) -> Samples:
        wav = self._wav
        try:
            data = self._file.read(num_frames * wav.bytes_a_frame)
        except OSError as exc:
            raise AudioError(f"{self._path} cannot be read: {exc.strerror}") from exc
        whole = data[: len(data) - len(data) % wav.bytes_a_frame]
        return pcm_values(whole, wav.width, wav.is_float).reshape(-1, wav.channels)

    def close(self) -> None:
        self._file.close()


def open_recording(path: Path) -> Recording:
    """Open a recording; AudioError if it is none, has no samples or odd ones."""
    head = _read_head(path)
    parsed = None
    if head.startswith(b"RIFF"):
        try:
            parsed = WavHeader(str(path)).push(head)
        except AudioError:  # libsndfile knows more kinds of WAV files, and has the last word
            parsed = None
    if parsed is None:
        return SndfileRecording(path, None)
    wav, first = parsed
    data_at = len(head) - len(first)
    if head[data_at - 4 : data_at] == bytes(4):
        return PipedWav(path, wav, data_at)
    return SndfileRecording(path, wav)


def _read_head(path: Path) -> bytes:
    """The first bytes of a file; AudioError if it is none that can be read, or empty."""
    try:
        if not path.is_file() and path.exists():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise AudioError(f"{path} is {what}: name a recording")
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as exc:
        raise AudioError(f"{path} does not exist: check the name of the recording") from exc
    except OSError as exc:
        raise AudioError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
    if not head:
        raise AudioError(f"{path} is empty: record or copy it again")
    return head


def _no_samples(path: Path) -> AudioError:
    return AudioError(f"no samples in {path}: it has a header and nothing else")
