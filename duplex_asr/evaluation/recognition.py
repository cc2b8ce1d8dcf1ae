"""A recording in, what an engine makes of it out: by the daemon's path, or as one utterance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines import find_engine, load_engine
from duplex_asr.asr.manifest import Manifest, read_manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.recordings import open_recording
from duplex_asr.cancellation import Cancelled
from duplex_asr.config import Config
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.offline import as_json, transcribe_file, transcribe_whole_file

HearingPath = Literal["daemon", "whole"]
WINDOW_MS = N_FRAMES * 10  # what Whisper hears at once
_BLOCK_FRAMES = 1 << 16


@dataclass(frozen=True)
class Heard:
    """What became of one recording.

    audio_ms: its length. wall_ms: what reading, voice detector and engine took together.
    utterances: as `duplex-asr transcribe --json` prints them. transcripts: of the same utterances,
    with their samples; none unless the recogniser keeps them.
    """

    audio_ms: float
    wall_ms: float
    utterances: tuple[dict[str, Any], ...]
    transcripts: tuple[Transcript, ...] = ()

    @property
    def text(self) -> str:
        """What the daemon would publish: the texts that the guards believe."""
        return " ".join(each["text"] for each in self.utterances if each["text"])


class Recogniser:
    """One engine with its settings, for one caller at a time.

    daemon: voice detector, endpointer and guards, as `duplex-asr transcribe` does it.
    whole: a recording is one utterance, padded to 30 s. A longer one goes the daemon's path, since
    all of it was said.
    keeps_sound: the samples of all utterances of a recording are held until the next one.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, engine: SpeechEngine, config: Config,
        hearing_path: HearingPath, keeps_sound: bool = False,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.manifest = manifest
        self.engine = engine
        self.config = config
        self.hearing_path = hearing_path
        self._keeps_sound = keeps_sound
        self.transcriber = Transcriber(engine, config.transcription)

    @classmethod
    def load(
        cls, config: Config, hearing_path: HearingPath, keeps_sound: bool = False
    ) -> Recogniser:
        """Load the configured engine. Raises EngineError if there is none that runs here."""
        folder = find_engine(config.engine.path)
        engine = load_engine(folder, config.engine.threads, config.cuda)
        return cls(folder, read_manifest(folder), engine, config, hearing_path, keeps_sound)

    def hear(self, path: Path, interrupt: Interrupt) -> Heard:
        """Transcribe a recording.

        Raises AudioError if not all of it can be read, Cancelled after an utterance in which it was
        interrupted.
        """
        audio_ms = length_ms(path)
        started = time.perf_counter()
        utterances, transcripts = [], []
        for transcript in self._transcripts(path, audio_ms):
            utterances.append(describe_utterance(path, transcript))
            if self._keeps_sound:
                transcripts.append(transcript)
            if interrupt.is_set:
                raise Cancelled
        wall_ms = 1000 * (time.perf_counter() - started)
        return Heard(audio_ms, wall_ms, tuple(utterances), tuple(transcripts))

    def describe(self) -> dict[str, Any]:
        """The engine for a report."""
        return {
            "name": self.manifest.name,
            "folder": str(self.folder),
            "backend": self.manifest.backend,
            "precision": self.manifest.precision,
            "source_sha256": self.manifest.source_sha256,
            "path": self.hearing_path,
            "language": self.config.transcription.language,
            "threads": self.config.engine.threads,
        }

    def close(self) -> None:
        self.engine.close()

    def _transcripts(self, path: Path, audio_ms: float) -> Iterator[Transcript]:
        if self.hearing_path == "whole" and audio_ms <= WINDOW_MS:
            return transcribe_whole_file(path, self.transcriber)
        return transcribe_file(path, self.transcriber, self.config)


def length_ms(path: Path) -> float:
    """How long a recording is; one whose header does not tell is read to its end."""
    recording = open_recording(path)
    try:
        num_frames = recording.announced_frames
        if not num_frames:
            while len(block := recording.read(_BLOCK_FRAMES)):
                num_frames += len(block)
        return 1000 * num_frames / recording.rate
    finally:
        recording.close()


def describe_utterance(path: Path, transcript: Transcript) -> dict[str, Any]:
    """An utterance as `duplex-asr transcribe --json` prints it, with times in full."""
    entry = as_json(path, transcript)
    del entry["file"]
    timings = transcript.timings
    entry["timings"] |= {
        "mel_ms": round(timings.mel_ms, 3),
        "encode_ms": round(timings.encode_ms, 3),
        "decode_ms": round(timings.decode_ms, 3),
    }
    return entry
