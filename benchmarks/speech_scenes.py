"""Recordings of people in, scenes out: sound with the places where somebody truly speaks in it.

Nobody has annotated the recordings, so those places are found in the clean sound, before anything
is mixed into it: a frame of 10 ms is loud if it is at most 30 dB below the 95th percentile of its
recording and at least 10 dB above the 5th; three loud frames in a row are speech. Less than 100 ms
of it, more than 300 ms away from the rest, is a click and no word. Where a recording is loud up to
its last 50 ms nobody knows whether its speaker had finished: such sentences are left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, SAMPLES_PER_MS, Samples

LOUD_BELOW_PEAK_DB, LOUD_ABOVE_FLOOR_DB = 30.0, 10.0
MIN_LOUD_FRAMES = 3
CLICK_FRAMES, CLICK_DISTANCE_FRAMES = 10, 30
FLOOR_DBFS = -60.0  # white noise under everything: a microphone never delivers exact silence
SENTENCE_DBFS = -25.0
SENTENCES_PER_SCENE = 5
QUIET_END_MS = 50
PAUSES_MS = (200, 350, 500, 700, 1000, 1500, 2000)
LEAD_IN_MS, TAIL_MS = 1_000, 3_000
KEEP_BEFORE_MS, KEEP_AFTER_MS, FADE_MS = 50, 100, 20  # of a sentence's own surroundings


@dataclass(frozen=True)
class Scene:
    """samples: float32, shape = (n,), 16 kHz; sentences: from first to last sample of each;
    is_loud: one flag a frame of 10 ms, True where somebody speaks."""

    name: str
    samples: Samples
    sentences: tuple[tuple[int, int], ...]
    is_loud: np.ndarray

    @property
    def speech_rms(self) -> float:
        frames = self.samples[: len(self.is_loud) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        return float(np.sqrt(np.mean(np.square(frames[self.is_loud]))))


def read(path: Path) -> Samples:
    return np.concatenate([frame.samples for frame in FileSource(path, realtime=False).frames()])


def loud_frames(samples: Samples) -> np.ndarray:
    """Where somebody speaks, by the rule above; one flag a frame, shape = (len // 160,)."""
    num_frames = len(samples) // FRAME_SAMPLES
    power = np.mean(np.square(samples[: num_frames * FRAME_SAMPLES].reshape(num_frames, -1)), 1)
    level = 10 * np.log10(power + 1e-12)
    peak, floor = np.percentile(level, 95), np.percentile(level, 5)
    loud = level > max(peak - LOUD_BELOW_PEAK_DB, floor + LOUD_ABOVE_FLOOR_DB)
    speech = np.zeros_like(loud)
    for start, end in runs(loud):
        speech[start:end] = end - start >= MIN_LOUD_FRAMES
    for start, end in runs(speech):
        around = speech[max(0, start - CLICK_DISTANCE_FRAMES) : end + CLICK_DISTANCE_FRAMES]
        if end - start < CLICK_FRAMES and around.sum() == end - start:
            speech[start:end] = False
    return speech


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last-plus-one index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def span(is_loud: np.ndarray) -> tuple[int, int]:
    """The sample where speech begins and the one after its end."""
    loud = np.flatnonzero(is_loud)
    return int(loud[0]) * FRAME_SAMPLES, (int(loud[-1]) + 1) * FRAME_SAMPLES


def orders(folder: Path) -> list[Scene]:
    """Each recording as one scene and one sentence, followed by silence to end in."""
    scenes = []
    for path in sorted(folder.glob("*.flac")):
        samples = np.concatenate([read(path), np.zeros(TAIL_MS * SAMPLES_PER_MS, np.float32)])
        is_loud = loud_frames(samples[: -TAIL_MS * SAMPLES_PER_MS])
        is_loud = np.pad(is_loud, (0, len(samples) // FRAME_SAMPLES - len(is_loud)))
        scenes.append(Scene(path.stem, samples, (span(is_loud),), is_loud))
    return scenes


def joined_sentences(folder: Path, seed: int) -> list[Scene]:
    """All sentences in random order, five a scene, with a pause of 0.2 to 2 s between two."""
    order = random.Random(seed)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".ogg"))
    paths = [path for path in paths if _has_an_end(read(path))]
    order.shuffle(paths)
    pauses: list[int] = []
    scenes = []
    for first in range(0, len(paths), SENTENCES_PER_SCENE):
        some = paths[first : first + SENTENCES_PER_SCENE]
        while len(pauses) < len(some):
            pauses += order.sample(PAUSES_MS, len(PAUSES_MS))
        scenes.append(_join(some, [pauses.pop() for _ in some[1:]]))
    return scenes


def _has_an_end(samples: Samples) -> bool:
    return len(samples) - span(loud_frames(samples))[1] >= QUIET_END_MS * SAMPLES_PER_MS


def _join(paths: list[Path], pauses_ms: list[int]) -> Scene:
    placed: list[tuple[int, int, Samples]] = []  # where it begins, what of it came before, sound
    sentences = []
    is_speech: list[tuple[int, np.ndarray]] = []
    position = LEAD_IN_MS * SAMPLES_PER_MS
    for path, pause_ms in zip(paths, [*pauses_ms, 0], strict=True):
        samples = read(path)
        is_loud = loud_frames(samples)
        start, end = span(is_loud)
        before = min(start, KEEP_BEFORE_MS * SAMPLES_PER_MS)
        cut = _fade(samples[start - before : end + KEEP_AFTER_MS * SAMPLES_PER_MS])
        placed.append((position, before, cut * _gain(samples, is_loud)))
        sentences.append((position, position + end - start))
        is_speech.append((position, is_loud[start // FRAME_SAMPLES : end // FRAME_SAMPLES]))
        position += end - start + pause_ms * SAMPLES_PER_MS
    length = position + TAIL_MS * SAMPLES_PER_MS
    sound = np.zeros(length - length % FRAME_SAMPLES, np.float32)
    loud = np.zeros(len(sound) // FRAME_SAMPLES, bool)
    for start, before, cut in placed:
        sound[start - before : start - before + len(cut)] += cut
    for start, flags in is_speech:
        loud[start // FRAME_SAMPLES :][: len(flags)] = flags
    return Scene("+".join(path.stem for path in paths), sound, tuple(sentences), loud)


def _gain(samples: Samples, is_loud: np.ndarray) -> np.float32:
    rms = Scene("", samples, (), is_loud).speech_rms
    return np.float32(10 ** (SENTENCE_DBFS / 20) / rms)


def _fade(samples: Samples) -> Samples:
    ramp = np.linspace(0, 1, FADE_MS * SAMPLES_PER_MS, dtype=np.float32)
    faded = samples.copy()
    faded[: len(ramp)] *= ramp
    faded[-len(ramp) :] *= ramp[::-1]
    return faded


def with_noise(scene: Scene, noise: Samples, snr_db: float, seed: int) -> Scene:
    """The scene with noise that is `snr_db` below its speech, from a random place on."""
    first = np.random.default_rng(seed).integers(len(noise))
    level = float(np.sqrt(np.mean(np.square(noise))))
    gain = np.float32(scene.speech_rms / level / 10 ** (snr_db / 20))
    endless = np.resize(np.roll(noise, -first), len(scene.samples))
    return replace(scene, samples=scene.samples + gain * endless)


def in_room(scene: Scene, impulse_response: Samples) -> Scene:
    """The scene as it sounds in a room; what arrives first arrives at once and as loud."""
    direct = int(np.argmax(np.abs(impulse_response)))
    length = len(scene.samples) + len(impulse_response)
    spectrum = np.fft.rfft(scene.samples, length) * np.fft.rfft(impulse_response, length)
    wet = np.fft.irfft(spectrum, length)[direct : direct + len(scene.samples)]
    wet *= np.sqrt(np.mean(np.square(scene.samples)) / np.mean(np.square(wet)))
    return replace(scene, samples=wet.astype(np.float32))


def at_a_microphone(scene: Scene, seed: int) -> Scene:
    """The scene with a microphone's own noise, within full scale."""
    noise = np.random.default_rng(seed).standard_normal(len(scene.samples), np.float32)
    noisy = scene.samples + np.float32(10 ** (FLOOR_DBFS / 20)) * noise
    return replace(scene, samples=np.clip(noisy, -1, 1))


def seconds(scenes: list[Scene]) -> float:
    return sum(len(scene.samples) for scene in scenes) / SAMPLE_RATE
