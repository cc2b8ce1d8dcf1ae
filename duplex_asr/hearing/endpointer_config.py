"""The settings of the endpointer."""

from __future__ import annotations

from dataclasses import dataclass

from duplex_asr.settings import setting


@dataclass(frozen=True)
class EndpointerConfig:
    """When an utterance starts and ends.

    threshold, release_threshold: speech probability at which silence becomes voice, and below
    which voice becomes silence again.
    min_speech_ms: voice without a gap that makes an onset; shorter clicks are ignored.
    pre_roll_ms: sound kept from before the onset.
    tail_ms: sound kept after the last voice at most; of mere background only early_ms are kept.
    early_ms: silence after which Pause is given; 0 means never.
    min_silence_ms: silence that ends an utterance.
    complete_silence_ms, unfinished_silence_ms: the same after a text that ends a sentence, and one
    that stops in the middle (see Endpointer.expect); 0 means min_silence_ms.
    max_utterance_ms: a longer utterance is cut; Whisper takes no more than 30 s.
    no_speech_ms: silence after which NoSpeech is reported; 0 means never.
    """

    threshold: float = setting(0.5, minimum=0.01, maximum=0.99)
    release_threshold: float = setting(0.35, minimum=0.01, maximum=0.99)
    min_speech_ms: int = setting(60, minimum=10, maximum=1_000)
    pre_roll_ms: int = setting(500, minimum=0, maximum=2_000)
    min_silence_ms: int = setting(500, minimum=100, maximum=5_000)
    complete_silence_ms: int = setting(0, minimum=0, maximum=5_000)
    unfinished_silence_ms: int = setting(0, minimum=0, maximum=5_000)
    early_ms: int = setting(160, minimum=0, maximum=2_000)
    tail_ms: int = setting(300, minimum=0, maximum=2_000)
    max_utterance_ms: int = setting(30_000, minimum=8_000, maximum=30_000)
    no_speech_ms: int = setting(0, minimum=0, maximum=3_600_000)
