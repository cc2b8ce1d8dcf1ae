"""Decide what is said in each training window: which clips, where, how fast, how loud.

Everything here is small numbers made on the CPU; `render.py` turns a batch of them into sound on
the training device. A `Batch` holds pieces (one clip placed in one window) and windows (what
should be written for it).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pack_clips import Clip
from splits import contains_digit_word
from torch.utils.data import IterableDataset
from words import (
    DIGITS,
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PHRASES,
    SOT,
    TOO_CLOSE,
    WAKE_WORDS,
    encode,
)

RATE = 16000
IGNORED = -100  # target value that the loss skips
N_TOKENS = 24  # longest label: prompt, up to 20 words, end
# How often each kind of window is made.
KINDS = {"single": 0.33, "string": 0.43, "mixed": 0.04, "other": 0.20}
# What a window without text holds.
OTHER_KINDS = {"words": 0.36, "sentence": 0.34, "backwards": 0.08, "noise": 0.16,
               "silence": 0.06}  # fmt: skip
SYNTHETIC_SHARE = {"digit": 0.50, "wake": 0.30}


@dataclass
class Piece:
    """A stretch of a clip, placed in a window."""

    source: int  # first sample in the pack
    length: int  # samples in the pack
    speed: float  # 1.1 is faster and higher
    destination: int  # first sample in the window; may be negative, then its start is cut
    gain: float
    narrow: bool  # recorded at 8 kHz: nothing above 4 kHz
    backwards: bool = False

    @property
    def duration(self) -> int:
        return max(1, int(self.length / self.speed))


@dataclass
class Window:
    pieces: list[Piece] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    end: int = 0  # samples until the exact zeros begin
    silent: bool = False  # no noise is added


class ClipChooser:
    """Random clips by what they say, balanced between people rather than between recordings."""

    def __init__(self, clips: Sequence[Clip], rng: random.Random) -> None:
        self.rng = rng
        self.by_speaker: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        self.words: dict[str, list[Clip]] = defaultdict(list)  # words to ignore, by origin
        self.sentences: list[Clip] = []
        for clip in clips:
            if clip.text in PHRASES:
                one_person = clip.group == "digits"
                self.by_speaker[clip.speaker if one_person else clip.group][clip.text].append(clip)
            elif clip.group in ("commands", "synthetic") and clip.text not in TOO_CLOSE:
                self.words[clip.group].append(clip)
            elif clip.group in ("spoken_orders", "utterances"):
                if not contains_digit_word(clip.text):
                    self.sentences.append(clip)
        shared = ("synthetic", "wake_words")
        self.digit_speakers = [name for name in self.by_speaker if name not in shared]

    def speaker(self) -> str:
        """One digits speaker, `commands` (many people) or `synthetic`, for a whole window."""
        if self.rng.random() < SYNTHETIC_SHARE["digit"]:
            return "synthetic"
        return self.rng.choice(self.digit_speakers)

    def phrase(self, text: str, speaker: str) -> Clip:
        if text in WAKE_WORDS:
            synthetic = self.rng.random() < SYNTHETIC_SHARE["wake"]
            speaker = "synthetic" if synthetic else "wake_words"
        return self.rng.choice(self.by_speaker[speaker][text])

    def other_word(self) -> Clip:
        return self.rng.choice(self.words[self.rng.choice(list(self.words))])


class Composer:
    """Makes windows of at most `max_samples`, endlessly and reproducibly for one seed."""

    def __init__(self, clips: Sequence[Clip], max_samples: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.chooser = ClipChooser(clips, self.rng)
        self.max_samples = max_samples

    def window(self) -> Window:
        kind = self.pick(KINDS)
        if kind == "single":
            return self.single_phrase()
        if kind == "other":
            return self.no_text()
        return self.string(with_other_words=kind == "mixed")

    def pick(self, weights: dict[str, float]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def any_phrase(self, wake_share: float) -> str:
        return self.rng.choice(WAKE_WORDS if self.rng.random() < wake_share else DIGITS)

    def single_phrase(self) -> Window:
        """One phrase; often in a recording of exactly one second, perhaps cut at its edge."""
        text = self.any_phrase(0.35)
        clip = self.chooser.phrase(text, self.chooser.speaker())
        if self.rng.random() < 0.6:
            return self.arrange([(clip, text)])
        piece = self.piece(clip, self.speed(), 0)
        slack = int(0.05 * RATE)
        latest = max(0, RATE - piece.duration) + slack
        piece.destination = self.rng.randint(-slack, latest)
        return Window([piece], text.split(), end=max(RATE, piece.duration - slack))

    def string(self, with_other_words: bool) -> Window:
        """Two to ten phrases, mostly digits, mostly of one speaker."""
        rng = self.rng
        speaker = self.chooser.speaker()
        several_speakers = rng.random() < 0.15
        texts = list(DIGITS)
        if rng.random() < 0.15:  # repeated digits teach the decoder to count
            texts = rng.sample(DIGITS, rng.randint(1, 2))
        items: list[tuple[Clip, str]] = []
        for _ in range(min(rng.randint(2, 10), rng.randint(2, 10))):
            if with_other_words and rng.random() < 0.45:
                items.append((self.chooser.other_word(), ""))
                continue
            text = self.any_phrase(1.0) if rng.random() < 0.12 else rng.choice(texts)
            if several_speakers:
                speaker = self.chooser.speaker()
            items.append((self.chooser.phrase(text, speaker), text))
        return self.arrange(items)

    def no_text(self) -> Window:
        rng, chooser = self.rng, self.chooser
        kind = self.pick(OTHER_KINDS)
        if kind == "words":
            count = rng.choice((1, 1, 1, 2, 3, 5))
            return self.arrange([(chooser.other_word(), "") for _ in range(count)])
        if kind == "backwards":  # same people and microphones, but nothing that is said
            texts = rng.choices([text for text in PHRASES if text != "nine"], k=rng.randint(1, 5))
            speaker = chooser.speaker()
            window = self.arrange([(chooser.phrase(text, speaker), "") for text in texts])
            for piece in window.pieces:
                piece.backwards = True
            return window
        if kind == "sentence":
            # No shorter: "to" or "for" cut from a sentence alone would be a digit to anybody.
            return self.arrange([(self.cut(rng.choice(chooser.sentences), 1.2, 6.0), "")])
        return Window(end=int(rng.uniform(0.4, self.max_samples / RATE) * RATE),
                      silent=kind == "silence")  # fmt: skip

    def cut(self, clip: Clip, shortest: float, longest: float) -> Clip:
        """A random stretch of a sentence, in seconds."""
        length = min(clip.length, int(self.rng.uniform(shortest, longest) * RATE))
        start = clip.start + self.rng.randint(0, clip.length - length)
        return Clip(clip.path, clip.group, None, clip.speaker, start, length)

    def speed(self) -> float:
        return 1.0 if self.rng.random() < 0.2 else self.rng.uniform(0.82, 1.22)

    def piece(self, clip: Clip, speed: float, destination: int) -> Piece:
        """A clip as it is, or with up to 50 ms (at most an eighth) missing at either end."""
        start, length = clip.start, clip.length
        if self.rng.random() < 0.25:
            most = min(int(0.05 * RATE), length // 8)
            front, back = self.rng.randint(0, most), self.rng.randint(0, most)
            start, length = start + front, length - front - back
        speed *= self.rng.uniform(0.96, 1.04)
        gain = 10 ** (self.rng.uniform(-3, 3) / 20)
        return Piece(start, length, speed, destination, gain, narrow=clip.group == "digits")

    def arrange(self, items: list[tuple[Clip, str]]) -> Window:
        """Place items one after another with gaps in one style; drop what does not fit."""
        rng = self.rng
        window = Window()
        speed = self.speed()
        position = 0 if rng.random() < 0.2 else int(rng.uniform(0, 1.0) * RATE)
        typical_gap = 10 ** rng.uniform(-1.5, 0.05)  # 30 ms to 1.1 s
        hurried = rng.random() < 0.15
        tail = 0 if rng.random() < 0.2 else int(rng.uniform(0.05, 1.0) * RATE)
        for clip, text in items:
            piece = self.piece(clip, speed, position)
            if position + piece.duration + tail > self.max_samples and window.pieces:
                break
            window.pieces.append(piece)
            window.words += text.split()
            gap = rng.uniform(-0.04, 0.05) if hurried else typical_gap * rng.uniform(0.5, 1.6)
            position = max(0, position + piece.duration + int(gap * RATE))
        last = window.pieces[-1]
        window.end = min(self.max_samples, last.destination + last.duration + tail)
        return window


@dataclass
class Batch:
    """Arrays for `render`. Pieces: (n_pieces,); windows: (batch,) or (batch, N_TOKENS)."""

    source: torch.Tensor
    length: torch.Tensor
    speed: torch.Tensor
    duration: torch.Tensor
    destination: torch.Tensor
    gain: torch.Tensor
    narrow: torch.Tensor
    backwards: torch.Tensor
    window: torch.Tensor  # the window each piece belongs to
    end: torch.Tensor
    silent: torch.Tensor
    inputs: torch.Tensor  # decoder input tokens
    targets: torch.Tensor  # next tokens, IGNORED after the end
    n_words: torch.Tensor
    total: int = 0  # samples of all pieces together

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in vars(self).items()
        }
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        pinned = {
            name: value.pin_memory() if torch.is_tensor(value) else value
            for name, value in vars(self).items()
        }
        return Batch(**pinned)


def collate(windows: list[Window]) -> Batch:
    pieces = [(index, piece) for index, w in enumerate(windows) for piece in w.pieces]
    inputs = np.full((len(windows), N_TOKENS), EOT)
    targets = np.full((len(windows), N_TOKENS), IGNORED)
    for row, window in enumerate(windows):
        tokens = encode(" ".join(window.words))
        inputs[row, : len(tokens) + 2] = [SOT, NO_TIMESTAMPS, *tokens]
        first = NO_TIMESTAMPS if tokens else NO_SPEECH
        targets[row, : len(tokens) + 2] = [first, *tokens, EOT]

    def column(name: str, dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.array([getattr(piece, name) for _, piece in pieces], dtype))

    return Batch(
        source=column("source", np.int64),
        length=column("length", np.int64),
        speed=column("speed", np.float32),
        duration=column("duration", np.int64),
        destination=column("destination", np.int64),
        gain=column("gain", np.float32),
        narrow=column("narrow", np.bool_),
        backwards=column("backwards", np.bool_),
        window=torch.tensor([index for index, _ in pieces], dtype=torch.int64),
        end=torch.tensor([window.end for window in windows]),
        silent=torch.tensor([window.silent for window in windows]),
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        n_words=torch.tensor([len(window.words) for window in windows]),
        total=sum(piece.duration for _, piece in pieces),
    )


class BatchStream(IterableDataset):
    """Endless batches; each worker process composes with a seed of its own."""

    def __init__(self, clips: Sequence[Clip], batch: int, max_seconds: float, seed: int) -> None:
        self.clips, self.batch, self.seed = clips, batch, seed
        self.max_samples = int(max_seconds * RATE)

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        composer = Composer(
            self.clips, self.max_samples, self.seed * 100 + (worker.id if worker else 0)
        )
        while True:
            yield collate([composer.window() for _ in range(self.batch)])
